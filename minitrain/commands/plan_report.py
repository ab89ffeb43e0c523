"""What `plan` prints: the best strategies as a table, the first one in detail, and why the others do not fit."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..planner.estimate import Estimate, estimate
from ..planner.holdings import KINDS
from ..planner.machines import GIB, PYTHON, Computer
from ..planner.presets import MODELS
from ..planner.search import Found, Rejected, Request, Slower
from ..planner.setup import Setup

if TYPE_CHECKING:
    from .plan import Plan

TEXT = 68  # distinct characters of the bundled text, which `train` takes by default
FOLLOWED = 100  # combinations that are too large, to find the closest


def report(every: Sequence[Found], request: Request, computer: Computer, plan: "Plan") -> Iterator[Any]:
    """Yield the parts of the report."""
    fits = sorted((found for found in every if isinstance(found, Estimate)), key=order)
    yield heading(request, computer, plan)
    if fits:
        shown = fits if plan.variants else best_of_each_mesh(fits)
        yield table(shown[: plan.top], request, computer)
        yield details(fits[0], request)
    else:
        yield "No strategy fits."
    yield from reasons(every, request, plan)


def heading(request: Request, computer: Computer, plan: "Plan") -> str:
    """Return what is planned, and for which machine."""
    s, c = request.sizes, computer
    same = s == MODELS[plan.model.model].sizes
    lines = [
        f"{plan.model.model}{'' if same else ', with other sizes'}: {s.parameters:,} parameters",
        f"{request.batch} sequences of {s.length} tokens per update, in {' and '.join(request.precisions)}",
        f"{request.ranks} ranks with {held(request.memory)} and {digits(c.flops / 1e9)} GFLOP/s each, of a peak of "
        f"{digits(c.peak / 1e9)}",
        f"{seconds(c.latency)} and {size(c.bandwidth)}/s between ranks of a host",
    ]
    if request.ranks > c.per_host:
        lines.append(
            f"{seconds(c.latency_between)} and {size(c.bandwidth_between)}/s between hosts of {c.per_host} ranks"
        )
    return "\n".join(lines)


def best_of_each_mesh(fits: Sequence[Estimate]) -> list[Estimate]:
    """Return the first of each (dp, pp, tp)."""
    best: dict[tuple[int, int, int], Estimate] = {}
    for found in fits:
        best.setdefault((found.setup.dp, found.setup.pp, found.setup.tp), found)
    return [*best.values()]


def order(found: Estimate) -> tuple[float, ...]:
    """Return the time of a strategy and, for those of the same time, how much it does besides."""
    s, st = found.setup, found.setup.strategy
    return float(found.time), s.accumulate, st.zero, st.sp, st.recompute, float(found.memory["total"])


def table(fits: Sequence[Estimate], request: Request, computer: Computer) -> Table:
    """Return the table of the best strategies, at most 80 columns wide."""
    several = len(request.precisions) > 1
    found = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("dp", "pp", "tp"):
        found.add_column(heading, justify="right")
    found.add_column("schedule", no_wrap=True)
    for heading in ("k", "ZeRO", "sp", "rc"):
        found.add_column(heading, justify="right")
    if several:
        found.add_column("in", no_wrap=True)
    for heading in ("memory", "time", "MFU", "idle", "comm"):
        found.add_column(heading, justify="right", no_wrap=True)
    for e in fits:
        s, st = e.setup, e.setup.strategy
        order, kind = schedule(s).replace("eaved", "."), [precision(s).replace("weights", "w")] * several
        found.add_row(
            str(s.dp), str(s.pp), str(s.tp), order, str(s.accumulate), str(st.zero), "yes" if st.sp else "-",
            str(st.recompute or "-"), *kind, held(e.memory["total"]), seconds(float(e.time)),
            percent(mfu(e, request, computer)), percent(e.bubble / e.time), percent(e.exposed / e.time),
        )  # fmt: skip
    return found


def schedule(setup: Setup) -> str:
    """Return the name of a pipeline's schedule, with its chunks."""
    st = setup.strategy
    return "-" if setup.pp == 1 else f"{st.schedule} {st.v}" if st.schedule == "interleaved" else str(st.schedule)


def precision(setup: Setup) -> str:
    """Return the precision as the option names it."""
    return setup.precision + ("-weights" if setup.half_weights else "")


def mfu(found: Estimate, request: Request, computer: Computer) -> float:
    """Return the model FLOPs utilization: the model's FLOPs per second, as a fraction of all ranks' peak."""
    return float(found.useful / found.time) / request.ranks / computer.peak


def percent(fraction: Any) -> str:
    """Format a fraction in percent."""
    return f"{100 * float(fraction):.1f}%"


def seconds(time: float) -> str:
    """Format seconds with three digits, in the unit that suits them."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if time >= (2 if unit > 1 else 1) * unit:
            return f"{digits(time / unit)} {name}"
    return f"{digits(1e6 * time)} us"


def held(nbytes: Any) -> str:
    """Format bytes of memory, in GiB or MiB."""
    mib = float(nbytes) / 2**20
    return f"{digits(mib / 1024)} GiB" if mib >= 999.5 else f"{digits(mib)} MiB"


def digits(number: float) -> str:
    """Format a number with three digits, or with all before the point up to a million."""
    return f"{number:,.0f}" if 999.5 <= number < 1e6 else f"{number:.3g}"


def size(nbytes: float) -> str:
    """Format a number of bytes."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.3g} {name}"
    return f"{nbytes:.0f} bytes"


LEGEND = """
k: micro-batches; interl.: interleaved, and its chunks; sp: sequence parallel;
rc: recomputed; MFU: the model's FLOP/s, attention in full, over the peak;
idle: waiting for other stages; comm: communication that nothing hides
"""


def details(e: Estimate, request: Request) -> str:
    """Return what the first choice holds and sends, and how to run it."""
    kinds = ", ".join(f"{kind} {held(e.memory[kind])}" for kind in KINDS)
    links = {f"{axis} {link}": float(n) for (axis, link), n in e.sent.items() if axis != "norms"}
    sent = ", ".join(f"{link} {size(n)}" for link, n in links.items()) or "nothing"
    tokens = request.batch * request.sizes.length / float(e.time)
    lines = [
        f"The first choice: {words(e.setup)}",
        "It holds at most, on any rank and not all at once:",
        *wrapped(kinds),
        "The rank that sends most sends per update, inside a host or between hosts:",
        *wrapped(sent),
        f"{digits(tokens)} tokens/s; 10,000 updates take {seconds(1e4 * float(e.time))}",
    ]
    if not trainable(request):
        lines.append("train has no such model: it has GPTs with F = 4 D and attention with scores")
        return "\n".join([LEGEND, *lines])
    if request.sizes.vocabulary != TEXT:
        lines.append(
            f"It needs a --tokenizer of {request.sizes.vocabulary:,} tokens; without, plan with --vocabulary {TEXT}."
        )
    lines += ["It runs as:", *command(e.setup)]
    return "\n".join([LEGEND, *lines])


def words(setup: Setup) -> str:
    """Return a strategy in words, such as "dp 2 x tp 2, ZeRO-1, recomputed"."""
    st = setup.strategy
    axes = [f"{name} {n}" for name, n in (("dp", setup.dp), ("pp", setup.pp), ("tp", setup.tp)) if n > 1]
    parts = [" x ".join(axes) or "one rank"] + [schedule(setup)] * (setup.pp > 1) + [f"ZeRO-{st.zero}"] * (st.zero > 0)
    more = ["sp"] * st.sp + ["recomputed"] * (st.recompute > 0) + [precision(setup)] * (setup.precision != "fp32")
    return ", ".join(parts + more)


def wrapped(text: str) -> list[str]:
    """Return the text in lines of at most 76 columns, indented by two."""
    indent = {"initial_indent": "  ", "subsequent_indent": "  "}
    return textwrap.wrap(text, 76, break_on_hyphens=False, break_long_words=False, **indent)  # type: ignore[arg-type]


def trainable(request: Request) -> bool:
    """Return whether `train` has such a model: a GPT whose feed-forward layer is 4 D wide, without FlashAttention."""
    return request.sizes.family == "gpt" and request.sizes.hidden == 4 * request.sizes.width and not request.flash


def command(setup: Setup) -> list[str]:
    """Return the command that trains with this strategy, in lines."""
    s, st, z = setup.sizes, setup.strategy, setup
    options = [("layers", s.layers), ("heads", s.heads), ("width", s.width), ("context", s.length), ("batch", z.batch)]
    axes = [(name, n) for name, n in (("pp", z.pp), ("tp", z.tp)) if n > 1]
    more: list[tuple[str, object]] = [("accumulate", z.accumulate)] if z.accumulate > 1 else []
    if z.pp > 1:
        more += [("schedule", st.schedule)] + [("chunks", st.v)] * (st.schedule == "interleaved")
    more += [("zero", st.zero)] * (st.zero > 0) + [("recompute", st.recompute)] * (st.recompute > 0)
    more += [("reduce", "overlap")] * (st.reduce == "overlap") + [("precision", z.precision)] * (z.precision != "fp32")
    flags = [
        f"--{name}" for name, on in (("sp", st.sp), ("half-weights", z.half_weights), ("prefetch", st.prefetch)) if on
    ]
    words = [f"--{name}={value}" for name, value in (*options, *axes, *more)] + flags  # "=": both stay on one line
    rest = [f"  {line.replace('=', ' ')}" for line in wrapped(" ".join(words))]
    lines = [f"  mpirun -n {z.ranks} python -m minitrain train", *rest]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def reasons(every: Sequence[Found], request: Request, plan: "Plan") -> Iterator[str]:
    """Yield why other combinations are not in the table, and what would make them fit."""
    fits = sum(isinstance(found, Estimate) for found in every)
    slower = sum(isinstance(found, Slower) for found in every)
    over = [found for found in every if isinstance(found, Rejected) and found.over > 0]
    impossible = Counter(found.reason for found in every if isinstance(found, Rejected) and not found.over)
    counted = f"{fits} combination{'s' * (fits != 1)} fit{'s' * (fits == 1)}"
    lines = ["", counted + (f"; {slower} more are slower, and were not followed" if slower else "")]
    if over:
        kinds = Counter(found.reason for found in over)
        parts = ", ".join(f"{n} mostly by {kind}" for kind, n in kinds.most_common())
        lines += [f"{len(over)} need too much memory:", *wrapped(parts)]
    lines += without(every)
    if over and not fits:
        best, needs = closest(over, request)
        lines.append(f"the closest found, {words(best)}, needs {held(needs - request.memory)} more per rank:")
        lines.append(cure(needs, request, plan))
    lines += [f"impossible: {reason}" for reason, _ in impossible.most_common(4)]
    yield "\n".join(lines)


def without(every: Sequence[Found]) -> list[str]:
    """Return the meshes of which nothing fits, with a lower bound of what they need."""
    fits = {(e.setup.dp, e.setup.pp, e.setup.tp) for e in every if isinstance(e, (Estimate, Slower))}
    least: dict[tuple[int, int, int], Rejected] = {}
    for found in every:
        if isinstance(found, Rejected) and found.over and (mesh := (found.dp, found.pp, found.tp)) not in fits:
            least[mesh] = min(least.get(mesh, found), found, key=lambda it: it.over)
    few = sorted(least.items(), key=lambda it: it[1].over)[:4]
    return [
        f"dp {dp} x pp {pp} x tp {tp}: nothing fits; it takes at least {held(found.over)} more per rank"
        for (dp, pp, tp), found in few
    ]


def closest(over: Sequence[Rejected], request: Request) -> tuple[Setup, float]:
    """Return the setup that is too large by the least, and the bytes that a rank needs for it.

    The search has only lower bounds of most: those with the lowest are followed.
    """
    needs: list[tuple[float, Setup]] = []
    for found in sorted(over, key=lambda found: found.over)[:FOLLOWED]:
        assert found.setup is not None
        if needs and request.memory + found.over >= min(needs, key=lambda it: it[0])[0]:
            break
        needs.append((float(estimate(found.setup, request.machine).memory["total"]), found.setup))
    least, setup = min(needs, key=lambda it: it[0])
    return setup, least


def cure(needs: float, request: Request, plan: "Plan") -> str:
    """Return what would make a combination fit that needs so many bytes per rank."""
    option, gib = "--memory-gb", needs / GIB
    if plan.machine.host_memory_gb is not None:
        per_host = plan.machine.host_memory_gb * GIB / (request.memory + PYTHON)
        option, gib = "--host-memory-gb", (needs + PYTHON) * per_host / GIB
    places = max(0, 2 - math.floor(math.log10(gib)))
    enough = math.ceil(gib * 10**places * (1 + 1e-12)) / 10**places
    rest = "or try more --ranks,\n  a smaller --batch or --context, or a smaller model"
    return f"it fits with {option} {enough:.{places}f}; {rest}"


def as_row(found: Found, request: Request, computer: Computer) -> dict[str, Any]:
    """Return a combination as plain values for a file. Bytes are per rank and update."""
    if isinstance(found, Rejected) and found.setup is None:
        return {"status": "impossible", "dp": found.dp, "pp": found.pp, "tp": found.tp, "why": found.reason}
    setup = found.setup
    assert setup is not None
    st = setup.strategy
    row: dict[str, Any] = {
        "status": "fits", "dp": setup.dp, "pp": setup.pp, "tp": setup.tp,
        "schedule": st.schedule if setup.pp > 1 else None, "chunks": st.v, "micro_batches": setup.accumulate,
        "zero": st.zero, "sp": st.sp, "recompute": st.recompute, "reduce": st.reduce, "prefetch": st.prefetch,
        "precision": precision(setup),
    }  # fmt: skip
    if isinstance(found, Slower):
        return row | {
            "status": "slower",
            "least_seconds": found.least_time,
            "why": "takes at least this long; not followed further",
        }
    if isinstance(found, Rejected):
        needs = request.memory + found.over
        return row | {
            "status": "too large", "least_bytes": needs, "largest": found.reason,
            "why": f"needs at least {held(needs)} per rank, {held(found.over)} too much, mostly {found.reason}",
        }  # fmt: skip
    row |= {"seconds": float(found.time), "mfu": mfu(found, request, computer)}
    row |= {"flops": float(found.flops), "computing_seconds": float(found.computing)}
    row |= {"idle_seconds": float(found.bubble), "exposed_communication_seconds": float(found.exposed)}
    row |= {f"bytes_{kind}": float(found.memory[kind]) for kind in (*KINDS, "total")}
    return row | {f"sent_{axis}_{link}": float(n) for (axis, link), n in found.sent.items()}
