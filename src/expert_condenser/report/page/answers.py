"""The answer of a page in sentences: which arm won and by how much, "no difference", or why nothing can be said."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from expert_condenser.comparison.compare import AVERAGE

_LEVEL = 0.05
"""Of the fronts of a study, as in `study.fronts`."""


@dataclass(frozen=True)
class Answer:
    """What a reader is told first."""

    headline: str
    details: list[str] = field(default_factory=list)


def answer_of_comparison(report: dict[str, Any], focus: Sequence[str]) -> Answer:
    """The answer of `compare_both`'s report; the first metric of `focus` is what is asked for, the others follow."""
    with_nll = {row["metric"] for row in report.get("nll", {}).get("rows", [])}
    sentences = [sentence for metric in focus for sentence in _of_metric(report, metric)]
    sentences += [each for metric in focus if metric in with_nll for each in _of_metric(report["nll"], metric)]
    return Answer(sentences[0], sentences[1:])


def _of_metric(report: dict[str, Any], metric: str) -> list[str]:
    """What is true of one metric: who won, and then the differences of all arms."""
    rows = [row for row in report["rows"] if row["metric"] == metric]
    base = next(row for row in rows if row["arm"] == report["baseline"])
    others = [row for row in rows if row is not base]
    name = _called(report, metric)
    if len(report["seeds"]) == 1:
        scores = ", ".join(f"{row['arm']} {_number(report, row['mean'])}" for row in rows)
        return [f"One seed: no statement about methods on {name}.", f"On these items: {scores} {report['unit']}."]
    better, worse = (
        sorted((row for row in others if row["verdict"].startswith(word)), key=lambda row: -abs(row["difference"]))
        for word in ("better", "worse")
    )
    first = better[0] if better else others[0] if len(others) == 1 else None
    with_ends = first is not None and not _is_equal(first)
    terms = [*([_difference(report, first)] if first and with_ends else []), _terms(report, others)]
    rest = [row for row in others if row is not first]
    return [
        f"{_winner(base['arm'], others, better, worse, name)} ({'; '.join(terms)}).",
        *_differences(report, [row for row in rest if row in better], [row for row in rest if row in worse], rest),
    ]


def _called(report: dict[str, Any], metric: str) -> str:
    """A metric in a sentence."""
    name = "the average over all tasks" if metric == AVERAGE else metric
    return name if report["metric"] == "accuracy" else f"the nll of {name}"


def _terms(report: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    corrected = f", corrected for {len(others)} arms" if len(others) > 1 else ""
    return f"{100 * (1 - report['alpha']):g} % CI, {len(report['seeds'])} seeds{corrected}"


def _winner(base: str, others: Sequence[Any], better: Sequence[Any], worse: Sequence[Any], name: str) -> str:
    everyone = "the other arms" if len(others) > 1 else others[0]["arm"]
    if better:
        return f"{better[0]['arm']} won on {name} against {base}"
    if len(worse) == len(others):
        return f"{base} won on {name}: {everyone} {'are' if len(others) > 1 else 'is'} worse"
    if worse:
        return f"No arm beat {base} on {name}"
    if any(_is_untested(row) and not _is_equal(row) for row in others):
        return f"No statement on {name}: a difference that is the same at every seed has no test"
    if all(_is_equal(row) for row in others):
        return f"No difference on {name}: {base} and {everyone} are equal at every seed"
    return f"No difference found on {name} between {base} and {everyone}"


def _is_untested(row: dict[str, Any]) -> bool:
    return row["t_p"] is None


def _is_equal(row: dict[str, Any]) -> bool:
    return _is_untested(row) and abs(row["difference"]) < 1e-9


def _differences(report: dict[str, Any], better: Sequence[Any], worse: Sequence[Any], rows: Sequence[Any]) -> list[str]:
    """The arms that the first sentence has no numbers of."""
    rest = [row for row in rows if row not in better and row not in worse]
    against = f"than {report['baseline']}"
    groups = {
        f"Better {against}": better,
        f"Worse {against}": worse,
        f"No difference from {report['baseline']} found": [row for row in rest if not _is_untested(row)],
        "Not tested": [row for row in rest if _is_untested(row) and not _is_equal(row)],
    }
    texts = {word: "; ".join(f"{r['arm']} {_difference(report, r)}" for r in rows) for word, rows in groups.items()}
    return [f"{word}: {text}." for word, text in texts.items() if text]


def _difference(report: dict[str, Any], row: dict[str, Any]) -> str:
    interval, change = row["t_interval"], _number(report, row["difference"], "+")
    if _is_untested(row):
        return f"{change} {report['unit']} at every seed"
    return f"{change} {_interval(report, interval)} {report['unit']}"


def _interval(report: dict[str, Any], interval: dict[str, float]) -> str:
    return f"[{_number(report, interval['low'], '+')}, {_number(report, interval['high'], '+')}]"


def _number(report: dict[str, Any], value: float, sign: str = "") -> str:
    return f"{value:{sign}.{1 if report['unit'] == 'points' else 3}f}"


def answer_against_base(report: dict[str, Any]) -> Answer:
    """What runs of one arm learnt and forgot, from their comparison with the base."""
    rows = [row for row in report["rows"] if row["difference"] is not None and row["metric"] in _tasks(report)]
    groups = {
        "Learnt": [row for row in rows if row["verdict"].startswith("better")],
        "Forgotten": [row for row in rows if row["verdict"].startswith("worse")],
        "No difference from the base": [row for row in rows if not row["verdict"].startswith(("better", "worse"))],
    }
    found = [f"{name}: {'; '.join(_against_base(report, row) for row in own)}." for name, own in groups.items() if own]
    missing = [f"Nothing was {name.lower()}." for name in ("Learnt", "Forgotten") if not groups[name]]
    one_seed = ["One seed: this is of one model on these items, and no statement about its method."]
    details = [*found, *missing, *_nll_against_base(report)]
    return Answer(details[0], [*details[1:], *(one_seed if len(report["seeds"]) == 1 else [])])


def _nll_against_base(report: dict[str, Any]) -> list[str]:
    """The change of the nll of every task, which shows where no answer has changed."""
    rows = [row for row in report.get("nll", {}).get("rows", []) if row["metric"] in _tasks(report)]
    means = {(row["metric"], row["difference"] is None): row["mean"] for row in rows}
    names = dict.fromkeys(metric for metric, _ in means)
    texts = [f"{name} from {means[name, True]:.3f} to {means[name, False]:.3f}" for name in names]
    return [f"The nll went, {'; '.join(texts)} nats."] if texts else []


def _tasks(report: dict[str, Any]) -> list[str]:
    """The metrics without means over tasks, where there are others."""
    names = list(dict.fromkeys(row["metric"] for row in report["rows"]))
    return [name for name in names if name != AVERAGE] or names


def _against_base(report: dict[str, Any], row: dict[str, Any]) -> str:
    before = next(r["mean"] for r in report["rows"] if r["metric"] == row["metric"] and r["difference"] is None)
    interval = row["t_interval"] or row["bootstrap_interval"]
    ends = "" if interval is None else f", {_interval(report, interval)}"
    change = _number(report, row["difference"], "+")
    return f"{row['metric']} from {_number(report, before)} to {_number(report, row['mean'])} % ({change}{ends} points)"


def answer_of_contrasts(contrasts: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for every contrast of a study, with its verdict."""
    return [_of_contrast(each) for each in contrasts]


def _of_contrast(each: dict[str, Any]) -> str:
    digits = 3 if each["unit"] in ("nats", "log ratio") else 2
    interval = each["interval"]
    ends = "" if interval is None else f" [{interval['low']:+.{digits}f}, {interval['high']:+.{digits}f}]"
    what = f"{each['arm']} against {each['against']}, {each['measure']} of {each['of']}"
    p = "" if each["holm_p"] is None else f", p {each['holm_p']:.2g} after Holm's correction"
    return f"{each['name']}: {each['verdict']} ({what}: {each['difference']:+.{digits}f}{ends} {each['unit']}{p})."


def answer_of_fronts(fronts: dict[str, Any]) -> list[str]:
    """Whose fronts are larger and smaller than the baseline's, with Holm's correction; then whose is the largest."""
    against, arms = fronts["against"], fronts["arms"]
    means = {arm: sum(found["scores"]) / len(found["scores"]) for arm, found in arms.items()}
    best = max(means, key=lambda arm: means[arm])
    areas = f"The largest front is that of {best}, {means[best]:.2f} % of the unit square; {against}'s is "
    areas += f"{means[against]:.2f} %."
    seeds = len(arms[against]["scores"])
    if seeds == 1:
        return ["One seed: no statement about methods.", areas]
    found = {arm: each for arm, each in arms.items() if each["holm_p"] is not None and each["holm_p"] <= _LEVEL}
    larger, smaller = ([arm for arm, each in found.items() if sign * each["difference"] > 0] for sign in (1, -1))
    terms = f"{seeds} seeds" + (f", corrected for {len(arms) - 1} arms" if len(arms) > 2 else "")
    first = max(larger, key=lambda arm: means[arm], default=None)
    head = f"{first} won: its front is" if first else "No front is found to be"
    rest = [arm for arm in arms if arm not in found and arm != against]
    groups = {"Larger": larger, "Smaller": smaller, "No difference found": rest}
    texts = {word: "; ".join(_front(arm, arms[arm]) for arm in names) for word, names in groups.items()}
    sentences = [f"{word}: {text}." for word, text in texts.items() if text]
    return [f"{head} larger than {against}'s ({terms}).", areas, *sentences]


def _front(arm: str, found: dict[str, Any]) -> str:
    ends = "" if found["interval"] is None else f" [{found['interval']['low']:+.2f}, {found['interval']['high']:+.2f}]"
    return f"{arm} {found['difference']:+.2f}{ends}"


def answer_of_one(label: str, scores: dict[str, float]) -> Answer:
    """What can be said of one arm without the base's results."""
    if not scores:
        return Answer(f"{label} is not evaluated: nothing is known of what it learnt. Ask it with condenser eval.")
    found = ", ".join(f"{task} {100 * accuracy:.1f} %" for task, accuracy in scores.items())
    return Answer(
        f"One arm, {label}, and nothing to compare it with: {found}.",
        ["What it learnt and forgot shows beside its base: evaluate that alike, and name its folder with --base."],
    )
