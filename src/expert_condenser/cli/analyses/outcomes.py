"""What each `condenser analyze` does: from a session to `(content, tensors, draw, table)`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from expert_condenser.analysis.ablation import VARIANTS, ablate, variant_of
from expert_condenser.analysis.correlation import correlation_of
from expert_condenser.analysis.divergence import divergence_of
from expert_condenser.analysis.dynamics import Dynamics, check_together, dynamics_of
from expert_condenser.analysis.gradients import OPTIMIZERS, gradient_flow
from expert_condenser.analysis.overlap import overlaps
from expert_condenser.analysis.subjects import condensers_of
from expert_condenser.analysis.super_experts import SuperExperts, super_experts
from expert_condenser.analysis.usage import ExpertUsage, usage_of
from expert_condenser.analysis.usage_files import check_same_shape, names_of, read_usage
from expert_condenser.cli.analyses.pruning import prune
from expert_condenser.cli.analyses.session import Session, check_room
from expert_condenser.errors import AnalysisError
from expert_condenser.files import write_json
from expert_condenser.report import analysis_figures as figures

Outcome = tuple[dict[str, Any], dict[str, Any], Callable[[Path], None], list[dict[str, Any]]]


def _counted(session: Session) -> list[ExpertUsage]:
    """Usage of files, then of every model on every data set."""
    options = session.options
    usages = [read_usage(path, name) for path, name in zip(options.usage, names_of(options.usage), strict=True)]
    if options.model:
        names = {
            (subject.name, source): subject.name if len(set(options.data)) == 1 else f"{subject.name}, {source}"
            for subject in session.subjects
            for source in options.data
        }
        _check_names([*(usage.name for usage in usages), *names.values()])
        data = {source: session.rows_of(source, options.split) for source in options.data}
        for subject, model, advance in session.models("rows", sum(map(len, data.values()))):
            for source, rows in data.items():
                usages.append(
                    usage_of(
                        names[subject.name, source],
                        model,
                        session.tokenizer,
                        rows,
                        task=source,
                        batch_size=options.batch_size,
                        advance=advance,
                    )
                )
    check_same_shape(usages)
    return usages


def _check_names(names: Sequence[str]) -> None:
    """Raise `AnalysisError` where two usages have one name, or their files would."""
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(_file_name(name), name)) is not name:
            raise AnalysisError(
                f"usages are told apart by name, and by that of their file; {other!r} and {name!r} are both "
                f"{_file_name(name)}.json: write NAME=PATH"
            )


def _usage(session: Session) -> Outcome:
    folder = session.options.output_dir / "usage"
    check_room(folder)
    usages = _counted(session)
    folder.mkdir(parents=True, exist_ok=True)
    for usage in usages:
        write_json(folder / f"{_file_name(usage.name)}.json", usage.content(), indent=None)
    models = [{"name": u.name, "task": u.task, "layers": u.layers, **u.statistics()} for u in usages]
    tensors = {f"counts.{u.name}": u.counts for u in usages}
    tensors |= {f"gate_mass.{u.name}": u.gate_mass for u in usages if u.gate_mass is not None}
    table = [
        {"model": u.name, **{name: float(values.mean()) for name, values in u.statistics().items()}} for u in usages
    ]
    return {"models": models}, tensors, partial(figures.draw_usage, usages), table


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _overlap(session: Session) -> Outcome:
    usages = _counted(session)
    if len(usages) < 2:
        raise AnalysisError("an overlap is of two usages or more; name another --tuned, or another --usage")
    found = overlaps(usages)
    table = [
        {"first": x.first, "second": x.second, "common": float(x.common.mean()), "same_top": float(x.same_top.mean())}
        for x in found
    ]
    draw = partial(figures.draw_overlap, found, usages[0].layers)
    return {"layers": usages[0].layers, "pairs": [asdict(pair) for pair in found]}, {}, draw, table


def _divergence(session: Session) -> Outcome:
    base, *tuned = session.subjects
    if not tuned:
        raise AnalysisError("a divergence is that of tuned models from their base; name them with --tuned")
    rows = session.rows  # before a weight is loaded
    first = session.load(base)
    found = []
    for subject, model, advance in session.models("models", 1, tuned):
        found.append(divergence_of(subject.name, first, model, rows, batch_size=session.options.batch_size))
        advance(1)
    table = [{"model": x.name, "mean divergence": float(x.relative.mean())} for x in found]
    return {"models": [asdict(x) for x in found]}, {}, partial(figures.draw_divergence, found), table


def _correlation(session: Session) -> Outcome:
    found: list[Any] = []
    rows = session.rows
    condensers: dict[int, list[int]] = {}
    for subject, model, advance in session.models("models", 1):
        own = condensers_of(model)
        condensers = condensers or own
        found.append(correlation_of(subject.name, model, rows, tokens=session.options.tokens, condensers=own))
        advance(1)
    models = [
        {"name": x.name, "layers": x.layers, "mean": x.mean(), "condensers": x.mean_of(condensers)} for x in found
    ]
    table = [
        {"model": x.name, "all pairs": float(x.mean().mean()), "condensers": float(x.mean_of(condensers).mean())}
        for x in found
    ]
    tensors = {f"correlation.{x.name}": x.matrix for x in found}
    content = {"models": models, "condensers": condensers}
    return content, tensors, partial(figures.draw_correlation, found, condensers), table


def _ablation(session: Session) -> Outcome:
    found, rows = {}, session.rows
    for subject, model, advance in session.models("variants", len(VARIANTS)):
        with variant_of(subject.name, model, "on"):
            pass  # refused before anything is asked
        found[subject.name] = ablate(subject.name, model, rows, batch_size=session.options.batch_size, advance=advance)
    content: dict[str, Any] = {}
    for name, variants in found.items():
        content[name] = {variant: quality.content() for variant, quality in variants.items()}
        for variant, quality in variants.items():
            rise, interval = quality.rise_over(variants["on"])
            content[name][variant] |= {"nll_rise": rise, "nll_rise_interval": [interval.low, interval.high]}
    table = [
        {"model": name, "variant": variant, "nll": q["nll"], "rise": q["nll_rise"], "exact match": q["accuracy"]}
        for name, variants in content.items()
        for variant, q in variants.items()
    ]
    return {"models": content}, {}, partial(figures.draw_ablation, found), table


def _gradients(session: Session) -> Outcome:
    options = session.options
    if len(session.subjects) > 1:
        raise AnalysisError("gradients are followed through one model at a time; leave --tuned out")
    steps = -(-len(session.rows) // options.batch_size)
    for subject, model, advance in session.models("steps", steps * len(OPTIMIZERS)):
        rates = {"sgd": options.sgd_rate, "adamw": options.adamw_rate}
        flow = gradient_flow(
            subject.name, model, session.rows, batch_size=options.batch_size, rates=rates, advance=advance
        )
    slopes = {name: flow.slope(name) for name in OPTIMIZERS}
    deciles = flow.by_decile()
    tensors = {"usage": flow.usage, "frequency": flow.frequency, "gradient": flow.gradient}
    tensors |= {f"moved.{name}": table for name, table in flow.moved.items()}
    content = {"model": flow.name, "steps": flow.steps, "rates": rates, "slopes": slopes, "deciles": deciles}
    return content, tensors, partial(figures.draw_gradients, flow), [{"slope": "log moved on log p", **slopes}]


def _dynamics(session: Session) -> Outcome:
    runs = [dynamics_of(text) for text in session.options.runs]
    check_together(runs)
    models = [
        {"name": r.name, "base": r.base, "phases": r.phases, "steps": r.steps, "curves": r.curves, "gini": r.gini()}
        for r in runs
    ]
    tensors = {f"counts.{run.name}": run.counts for run in runs if run.counts is not None}
    tensors |= {f"bias.{run.name}": run.bias for run in runs if run.bias is not None}
    table = [{"run": r.name, "last step": r.steps[-1], "last nll": _last(r, "nll")} for r in runs]
    return {"runs": models}, tensors, partial(figures.draw_dynamics, runs), table


def _last(run: Dynamics, name: str) -> float | str:
    """The last value that was logged."""
    return next((value for value in reversed(run.curves.get(name, [])) if value is not None), "none")


def _super(session: Session) -> Outcome:
    found: list[Any] = []
    rows = session.rows
    for subject, model, advance in session.models("models", 1):
        follow = found[0].weights if found else {}
        found.append(super_experts(subject.name, model, rows, tokens=session.options.tokens, follow=follow))
        advance(1)
    models = [
        {
            "name": x.name,
            "layers": x.layers,
            "super_experts": x.found,
            "super_weights": [{"layer": at[0], "expert": at[1], **asdict(w)} for at, w in x.weights.items()],
            "followed": [_followed(x, found[0], at) for at in x.followed],
        }
        for x in found
    ]
    table = [
        {
            "model": x.name,
            "super experts (layer:expert)": " ".join(f"{x.layers[a]}:{e}" for a, e in x.found) or "none",
            "largest output": float(x.largest.max()),
            "the base's super weights now": _named(x, found[0]),
        }
        for x in found
    ]
    return (
        {"models": models},
        {f"largest.{x.name}": x.largest for x in found},
        partial(figures.draw_super, found),
        table,
    )


def _followed(model: SuperExperts, base: SuperExperts, at: tuple[int, int]) -> dict[str, Any]:
    """One super weight of the base, in a tuned model: whether it still makes its expert's largest output."""
    was, now = base.weights[at], model.weights.get(at)
    return {
        "layer": at[0],
        "expert": at[1],
        "place": was.place,
        "value": model.followed[at],
        "base_value": was.value,
        "still_largest": now is not None and now.place == was.place,
        "largest_output": float(model.largest[at]),
        "base_largest_output": float(base.largest[at]),
    }


def _named(model: SuperExperts, base: SuperExperts) -> str:
    """The values that the base's super weights have in a model."""
    values = {at: model.followed.get(at, weight.value) for at, weight in base.weights.items()}
    return " ".join(f"{base.layers[layer]}:{expert} {value:.4g}" for (layer, expert), value in values.items()) or "none"


ANALYSES: dict[str, Callable[[Session], Outcome]] = {
    "usage": _usage,
    "overlap": _overlap,
    "divergence": _divergence,
    "correlation": _correlation,
    "ablation": _ablation,
    "gradients": _gradients,
    "dynamics": _dynamics,
    "super": _super,
    "prune": prune,
}
