"""What ShardLedger shows: for each strategy a bar of what is held and a bar of what is sent, the table and the sentence."""

from ..style import look, text_on
from .ledger_sizes import CARDS
from .ledger_view import number
from .parts import button, entry, plain_table, presets, rich, sentence

WIDTH, LEFT, GAP, ROW, BAR, TOP = 900, 70, 40, 42, 26, 40
HALF = (WIDTH - LEFT - GAP) / 2  # pixels of the widest bar on each side
HEAD = ("strategy", "weights", "gradients", "optimizer", "held GB", "sent GB per step")
LETTERS = {"weights": "w", "gradients": "g", "optimizer": "o", "all-reduce": "sum", "all-gather": "gather", "reduce-scatter": "sum"}
COLOURS = {"weights": "FP16", "gradients": "BF16", "optimizer": "FP32", "all-reduce": "BF16", "all-gather": "FP16", "reduce-scatter": "BF16"}


def gb(size) -> str:
    """Bytes as GB (10⁹).

    >>> gb(112 * 10**9), gb(1)
    ('112', '1e-09')
    """
    return number(size / 10**9)


# ---- the sentence


def say(state) -> str:
    """The sentence that says what the present state means."""
    from .sharding import RECIPES

    mine, out = sum(state.held(state.strategy).values()), sum(state.sent(state.strategy).values())
    lead = f"{state.strategy} with {RECIPES[state.recipe][1]}."
    if state.processes == 1:
        return f"{lead} One process holds {gb(mine)} GB and sends nothing: there is nobody to share with. {_room(mine)}"
    return f"{lead} Each of {state.processes} processes holds {gb(mine)} GB, {_share(state, mine)}, and sends {gb(out)} GB in a step, {_versus(state, out)}. {_room(mine)}"


def _share(state, mine):
    whole = sum(state.held("DDP").values())  # what one process holds alone, whatever the strategy
    if mine == whole:
        return "as much as one would hold alone"
    share = state.processes if mine * state.processes == whole else None
    if share:
        return f"{'half' if share == 2 else ('an ' if share == 8 else 'a ') + str(share) + 'th'} of what one would hold alone"
    return f"{number(100 * mine / whole, 1)} % of what one would hold alone"


def _versus(state, out):
    whole = sum(state.sent("DDP").values())
    if state.strategy == "DDP":
        return "which the others are compared with"
    return "as much as DDP" if out == whole else f"{number(out / whole)} times what DDP sends"


def _room(mine):
    for card in CARDS:
        if mine <= card * 10**9:
            return f"That fits on a card of {card} GB, with {gb(card * 10**9 - mine)} GB left for activations and gathered layers."
    return f"That is more than a card of {CARDS[-1]} GB has."


# ---- the drawing


def drawing(state) -> str:
    """Two bars for each strategy, each side in true proportion; their numbers stand in the table, so that it is hidden from screen readers."""
    from .sharding import STRATEGIES

    most = [max(sum(side(name).values()) for name in STRATEGIES) or 1 for side in (state.held, state.sent)]
    rows = "".join(_row(state, i, name, most) for i, name in enumerate(STRATEGIES))
    heads = "".join(f'<text x="{x}" y="{TOP - 16}">{words}</text>' for x, words in ((LEFT, "held by each, GB"), (LEFT + HALF + GAP, "sent by each in a step, GB")))
    legend = (
        '<p class="cp-legend"><span>w: weights</span> <span>g: gradients</span> <span>o: optimizer, with master weights</span> '
        "<span>sum: gradients are summed</span> <span>gather: weights are collected</span></p>"
    )
    return f'<svg viewBox="0 0 {WIDTH} {TOP + ROW * len(STRATEGIES)}" aria-hidden="true">{heads}{rows}</svg>{legend}'


def _row(state, i, name, most):
    y, chosen = TOP + ROW * i, state.strategy == name
    weight = ' style="font-weight:700"' if chosen else ""
    label = f'<text x="{LEFT - 8}" y="{y + 18}" text-anchor="end"{weight}>{name}</text>'
    sides = ((LEFT, state.held(name), most[0]), (LEFT + HALF + GAP, state.sent(name), most[1]))
    return label + "".join(_bar(x, y, parts, (HALF - 60) / top) for x, parts, top in sides)


def _bar(x, y, parts, scale):
    shown, total = [], sum(parts.values())
    for kind, size in parts.items():
        width = float(size * scale)
        style = look(COLOURS[kind])
        shown.append(f'<rect x="{x:.1f}" y="{y}" width="{max(width - 1, 0.5):.1f}" height="{BAR}" fill="{style.colour}" stroke="currentColor"/>' * bool(size))
        if width > 9 * len(LETTERS[kind]) + 6:
            shown.append(f'<text x="{x + width / 2:.1f}" y="{y + 18}" text-anchor="middle" style="fill:{text_on(style.colour)}">{LETTERS[kind]}</text>')
        x += width
    return "".join(shown) + f'<text x="{x + 6:.1f}" y="{y + 18}">{gb(total)}</text>'


# ---- the panel


def view(state) -> str:
    """The panel as HTML."""
    from .sharding import MICRO_BATCHES, PRESETS, RECIPES

    recipes = "".join(button(f"recipe {i}", name, pressed=state.recipe == name) for i, name in enumerate(RECIPES))
    micro = "".join(button(f"micro {i}", str(n), pressed=state.micro_batches == n, label=f"{n} micro-batches in a step") for i, n in enumerate(MICRO_BATCHES))
    return (
        f'<div class="cp-bar">{entry("type", "Parameters", state.typed if state.draft is None else state.draft)}{presets(PRESETS)}</div>'
        f"{_slider(state)}"
        f'<div class="cp-bar"><span class="cp-label">Formats</span><span class="cp-presets" role="group" aria-label="Formats">{recipes}</span></div>'
        f'<div class="cp-bar"><span class="cp-label">Micro-batches</span><span class="cp-presets" role="group" aria-label="Micro-batches">{micro}</span></div>'
        f'{drawing(state)}<div class="cp-scroll">{_live_table(state)}</div>{sentence(say(state), state.message)}'
    )


def _slider(state):
    from .sharding import MOST

    moves = button("move -1", "÷ 2", label="Processes divided by 2") + button("move 1", "× 2", label="Processes times 2")
    return (
        f'<div class="cp-slide"><span class="cp-label" style="min-width:9em">Processes: {state.processes}</span><input type="range" min="0" max="{MOST}" step="1" '
        f'value="{state.power}" data-act="processes" data-key="processes" aria-label="Processes" aria-valuetext="{state.processes}">'
        f'<span class="cp-steps" role="group" aria-label="Move processes" data-up="move 1" data-down="move -1">{moves}</span></div>'
    )


def _cells(state, name):
    mine = state.held(name)
    return (*map(gb, mine.values()), gb(sum(mine.values())), gb(sum(state.sent(name).values())))


def _live_table(state):
    from .sharding import STRATEGIES

    head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
    body = "".join(
        f'<tr><th scope="row">{button(f"strategy {i}", name, pressed=state.strategy == name)}</th>'
        + "".join(f"<td>{rich(cell)}</td>" for cell in _cells(state, name)) + "</tr>"
        for i, name in enumerate(STRATEGIES)
    )  # fmt: skip
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _caption(state):
    count = f"{state.processes} process{'es' * (state.processes > 1)}"
    return f"{state.typed} parameters, {count}, {state.recipe}, {state.micro_batches} micro-batch{'es' * (state.micro_batches > 1)}"


def _rows(state):
    from .sharding import STRATEGIES

    return [(name, *_cells(state, name)) for name in STRATEGIES]


def table(state) -> str:
    """The state as a plain table."""
    return plain_table(HEAD, _rows(state), f"{_caption(state)}. {say(state)}")


def text(state) -> str:
    """The state as text."""
    rows = [HEAD, *_rows(state)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
    return "\n".join([f"ShardLedger: {_caption(state)}", *lines, say(state)])
