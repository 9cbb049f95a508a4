"""`condenser analyze prune`: score the experts of a model, take them out, and ask what is lost."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from expert_condenser.analysis.expert_lists import read_list, write_list
from expert_condenser.analysis.expert_scores import check_criteria, random_scores, score_experts
from expert_condenser.analysis.pruning import AgainstControl, Plan, against_control, prune_curves
from expert_condenser.analysis.skipping import Skipped, skip_curves
from expert_condenser.cli.analyses.session import Session
from expert_condenser.cli.console import progress
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.without_experts import least_left
from expert_condenser.report.analysis_figures import draw_pruning

LIST = "experts.jsonl"
_WAYS = {"as_is": False, "rescaled": True}
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)


def prune(session: Session) -> tuple[dict[str, Any], dict[str, Any], Callable[[Path], None], list[dict[str, Any]]]:
    """One model, loaded once; every pruned version is asked the same rows."""
    options = session.options
    if len(session.subjects) > 1:
        raise AnalysisError("one model is pruned at a time; leave --tuned out, and name the tuned one as --model")
    (subject,) = session.subjects
    plan = _plan(options, subject.shape.num_experts, subject.shape.top_k)
    listed = None if options.experts is None else read_list(options.experts, subject)
    check_criteria(options.criteria)
    rows, scoring = session.rows, [] if listed else session.rows_of(options.data, options.score_split)
    model = session.load(subject)
    least = [least_left(layer) for layer in moe_layers(model)]
    list(
        plan.cuts({"random": random_scores((len(least), subject.shape.num_experts), 0)}, least)
    )  # refused if it cannot be
    with progress("layers scored", len(least)) as advance:
        scores = listed or score_experts(model, scoring, options.criteria, tokens=options.score_tokens, advance=advance)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_list(options.output_dir / LIST, subject, scores)
    total = len(list(plan.cuts(scores, least))) * len(plan.ways)
    with progress("pruned models", total) as advance:
        whole, prunes = prune_curves(model, rows, scores, plan, batch_size=options.batch_size, advance=advance)
    quantiles = _QUANTILES if options.skip else ()
    skipped = skip_curves(model, rows, quantiles, ways=plan.ways, batch_size=options.batch_size)
    beside = [_beside(found) for found in against_control(prunes)]
    content = {
        "model": subject.name,
        "whole": whole.content(),
        "prunes": [{**pruned.content(whole), "removed": pruned.removed} for pruned in prunes],
        "against_control": beside,
        "skipping": [_skipped(each) for each in skipped],
    }
    tensors = {f"scores.{name}": table for name, table in scores.items()}
    return content, tensors, partial(draw_pruning, content), beside


def _skipped(found: Skipped) -> dict[str, Any]:
    kept = {name: getattr(found, name) for name in ("quantile", "rescale", "experts_per_token")}
    return {**kept, **found.quality.content()}


def _plan(options: Any, num_experts: int, top_k: int) -> Plan:
    for name, allowed in (("scopes", ("layer", "global")), ("ways", tuple(_WAYS))):
        if not getattr(options, name) or set(getattr(options, name)) - set(allowed):
            raise AnalysisError(f"--{name} takes {', '.join(allowed)}; got {','.join(getattr(options, name))!r}")
    parts = sorted({num_experts * part // 8 for part in (7, 6, 4, 2)}, reverse=True)
    keep = options.keep or [part for part in parts if part >= top_k]
    return Plan(keep, options.scopes, [_WAYS[way] for way in options.ways], options.draws, options.seed)


def _beside(found: AgainstControl) -> dict[str, Any]:
    pruned = found.prune
    return {
        "criterion": pruned.criterion,
        "scope": pruned.scope,
        "weights": "rescaled" if pruned.rescale else "as is",
        "kept": pruned.kept,
        "nll": found.nll,
        "control": found.control_mean,
        "lowest draw": found.control_low,
        "highest": found.control_high,
        "worse": f"{found.worse_draws} of {found.draws}",
    }
