"""Makes the wheel of `llama-cpp-py-sync` run where glibc is older than the 2.38 that it was built with.

Of 2.38 it needs four functions only, under new names for what was there before. So in a copy of the package the need
of that version is marked as weak, and a small library loaded first has the four.
"""

import shutil
import struct
import subprocess
from pathlib import Path

NEEDED = b"GLIBC_2.38"
_VERSIONS_NEEDED, _WEAK = 0x6FFFFFFE, 2  # SHT_GNU_verneed and VER_FLG_WEAK of the ELF format
_FOUR = r"""
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
long __isoc23_strtol(const char *s, char **e, int b) { return strtol(s, e, b); }
unsigned long __isoc23_strtoul(const char *s, char **e, int b) { return strtoul(s, e, b); }
unsigned long long __isoc23_strtoull(const char *s, char **e, int b) { return strtoull(s, e, b); }
int __isoc23_sscanf(const char *s, const char *f, ...) {
    va_list a; va_start(a, f); int n = vsscanf(s, f, a); va_end(a); return n;
}
"""


def environment(package: Path, folder: Path) -> dict[str, str]:
    """The variables with which a Python finds a copy of the package in `folder` that runs here."""
    copy = folder / package.name
    shutil.copytree(package, copy)
    for library in copy.glob("*.so*"):
        library.write_bytes(weakened(library.read_bytes()))
    (folder / "four.c").write_text(_FOUR)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "four.so", folder / "four.c"], check=True)
    return {"PYTHONPATH": str(folder), "LD_PRELOAD": str(folder / "four.so")}


def weakened(elf: bytes) -> bytes:
    """A 64-bit library whose need of `NEEDED` is weak."""
    data = bytearray(elf)
    (table,), (size, count) = struct.unpack_from("<Q", data, 0x28), struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + place * size) for place in range(count)]
    for section in sections:
        if section[1] == _VERSIONS_NEEDED:
            _weaken(data, section[4], sections[section[6]][4])
    return bytes(data)


def _weaken(data: bytearray, at: int, names: int) -> None:
    while True:
        _, count, _, first, following = struct.unpack_from("<HHIII", data, at)
        entry = at + first
        for _ in range(count):
            _, flags, _, name, step = struct.unpack_from("<IHHII", data, entry)
            if data[names + name :].startswith(NEEDED + b"\0"):
                struct.pack_into("<H", data, entry + 4, flags | _WEAK)
            entry += step
        if not following:
            return
        at += following
