"""A file that is almost right: its bytes damaged, or one value of it replaced, removed, added or nested."""

import copy
import json
import struct

import yaml

HOSTILE = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *(2**31, -(2**31), 2**63, 2**64 + 1, 10**400),
    *("", " ", "0", "-1", "nan", "1e999", "\0", "\ud800", "é\u2028", "../../x", "/", "/dev/zero", "~", "a" * 5000),
    *("{", "%s", "{seed}", "$HOME", "[red]", "(" * 300, "<think>", "{{ 1 }}", "2026-13-45", "testbed"),
    *([], {}, [[]], [None], [[1, 2], [3]], {"": None}, {"a": {"b": {}}}, [0] * 400, [{}] * 3, [["a", 1]]),
)
"""Values that a reader of JSON or YAML may meet where it expects another one."""
NAMES = ("", "format_version", "model", "a" * 300, "__class__", "\0", "1", "../x", "extra")
_DEEP = 100_000
"""Levels of nesting that no recursive parser takes."""
_BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b'"',
    b"{",
    b"]",
    b"9" * 5000,
    b"\x80",
    b": ",
    b"- ",
    b"&a *a",
)


def damaged(draw, content):
    """The bytes of a file with one to three faults of storage or of an editor."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        start = draw.randint(0, len(content))
        end = min(len(content), start + draw.randint(0, 8))
        fault = draw.randint(0, 6)
        if fault == 0:
            del content[start:]
        elif fault == 1:
            del content[start:end]
        elif fault == 2:
            content[start:start] = draw.choice(_BYTES)
        elif fault == 3:
            content[start:start] = content[start:end] * draw.randint(1, 50)
        elif fault == 4 and content:
            content[start % len(content)] ^= 1 << draw.randint(0, 7)
        elif fault == 5:
            content[start:end] = bytes(draw.randint(0, 255) for _ in range(end - start))
        else:
            content = content.replace(b"\n", b"\r\n")
    return bytes(content)


def changed(draw, value):
    """A value of JSON with one to three changes of its structure."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        value = _changed_once(draw, value)
    return value


def _changed_once(draw, value):
    places = list(_places(value))
    if not places or draw.randint(0, 40) == 0:
        return draw.choice(HOSTILE)
    holder, key = draw.choice(places)
    what = draw.randint(0, 9)
    if what <= 5:
        holder[key] = copy.deepcopy(draw.choice(HOSTILE))
    elif what == 6:
        del holder[key]
    elif what == 7 and isinstance(holder, dict):
        holder[draw.choice(NAMES)] = holder.pop(key)
    elif what == 8:
        holder[key] = draw.choice(([holder[key]], {"a": holder[key]}, str(holder[key]), [holder[key]] * 3))
    else:
        other, place = draw.choice(places)
        holder[key] = copy.deepcopy(other[place])
    return value


def _places(value):
    """Every holder and key in a value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def json_file(draw, content):
    """JSON, damaged or changed."""
    what = draw.randint(0, 9)
    if what <= 2:
        return damaged(draw, content)
    if what == 3:
        return draw.choice(
            (b"[" * _DEEP, b'{"a":' * _DEEP, b"[" * _DEEP + b"]" * _DEEP, b"", b"null", b"\xef\xbb\xbf" + content)
        )
    return json.dumps(changed(draw, json.loads(content)), ensure_ascii=draw.choice((True, True, False))).encode(
        errors="surrogatepass"
    )


def lines_file(draw, content):
    """JSON lines, of which one is damaged or changed."""
    lines = content.split(b"\n")
    at = draw.randint(0, len(lines) - 1)
    if not lines[at] or draw.randint(0, 5) == 0:
        return damaged(draw, content)
    lines[at] = json_file(draw, lines[at])
    return b"\n".join(lines)


def yaml_file(draw, content):
    """YAML, damaged or changed, or one that grows when its aliases are followed."""
    what = draw.randint(0, 9)
    if what <= 2:
        return damaged(draw, content)
    if what == 3:
        bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
        )
        tag = "x: !!python/object/apply:os.system [touch owned]\n"
        own = "a: &a [*a]\n"
        return (
            content
            + draw.choice(
                (bomb, tag, own, "seed: " + "9" * 5000, "seed: 2026-13-45\n", "? [1]\n: 2\n", "[" * 5000)
            ).encode()
        )
    value = changed(draw, yaml.safe_load(content))
    try:
        return yaml.safe_dump(value, allow_unicode=True).encode()
    except (UnicodeEncodeError, yaml.YAMLError):  # what YAML cannot say
        return json.dumps(value).encode()


def tensors_file(draw, content):
    """safetensors, with damaged bytes or a header that says something else of them."""
    if draw.randint(0, 2) == 0:
        return damaged(draw, content)
    size = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(changed(draw, json.loads(content[8 : 8 + size]))).encode()
    claimed = draw.choice((len(header),) * 8 + (0, 2**63, 2**31, len(header) + 1))
    return struct.pack("<Q", claimed) + header + content[8 + size :]


def text_file(draw, content):
    """Any file, damaged."""
    return damaged(draw, content)


BY_SUFFIX = {
    ".json": json_file,
    ".jsonl": lines_file,
    ".yaml": yaml_file,
    ".safetensors": tensors_file,
}


def mutated(draw, name, content):
    """A file of this name and content, almost right."""
    return BY_SUFFIX.get("." + name.rpartition(".")[2], text_file)(draw, content)
