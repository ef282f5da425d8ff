"""One pattern for every widget: a frozen state, `update(state, action) -> state`, `view(state) -> html`.

`Panel` is the only part that knows a browser. Its script forwards what a reader does and draws the HTML that comes
back; all numbers are made in Python. What the HTML may contain:

- `<button data-act="flip 0 9">`: a click, Space or Enter sends the action `{"act": "flip 0 9"}`.
- `<input data-act>`, `<textarea data-act>` and `<select data-act>`: a committed text, a choice or a slider's place sends `value` as well.
  Slider moves are merged: while one is being answered, only the latest of the others waits.
- `role="group"` around buttons: one stop for the Tab key, arrow keys, Home and End move inside; `data-up`, `data-down`
  on the group name the actions of the arrows up and down.
- `data-key`: the element's name, by which it keeps the focus when the page around it changes shape.
- `role="status"`, `role="alert"`: the nodes stay and their text changes, so that screen readers speak it.
"""

import html
from typing import Any

import anywidget
import traitlets

from .style import PANEL_CSS

_SCRIPT = """
let ahead = null; // a slider that has moved on while an answer was on its way: the answer must not push it back
function morph(old, now) { // make old like now, touching only what differs: focus, a drag, a half-typed word survive
  if (old.nodeName !== now.nodeName) return old.replaceWith(now);
  if (old.nodeType === 3) { if (old.data !== now.data) old.data = now.data; return; }
  for (const {name} of [...old.attributes]) if (name !== "tabindex" && !now.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of now.attributes) if (old.getAttribute(name) !== value) {
    old.setAttribute(name, value);
    if (name === "value" && old !== ahead && !old.matches(":active")) old.value = value;
  }
  if (now.nodeName === "OPTION") old.selected = now.selected;
  const rewritten = now.nodeName === "TEXTAREA" && old.textContent !== now.textContent && old !== document.activeElement;
  const [had, has] = [[...old.childNodes], [...now.childNodes]];
  has.forEach((node, i) => had[i] ? morph(had[i], node) : old.append(node));
  had.slice(has.length).forEach(node => node.remove());
  if (rewritten) old.value = now.value; // what a reader has typed meanwhile stays
}
function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  root.className = "course-panel";
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's one-key commands rest while the panel has the focus
  let answering = false, waiting = null;
  const buttons = group => [...group.querySelectorAll("button:not(:disabled)")];
  const rove = () => root.querySelectorAll("[role=group]").forEach(group => {
    const all = buttons(group), stop = all.find(b => b === document.activeElement) ?? all.find(b => b.getAttribute("tabindex") === "0") ?? all[0];
    all.forEach(b => b.setAttribute("tabindex", b === stop ? "0" : "-1"));
  });
  const post = action => { answering = true; model.send(action); };
  const act = node => { if (waiting) post(waiting); waiting = ahead = null; post({ act: node.dataset.act, value: node.value }); };
  const draw = () => {
    const key = root.contains(document.activeElement) && document.activeElement.dataset.key;
    const page = root.cloneNode(false);
    page.innerHTML = model.get("frame").html;
    morph(root, page);
    if (key && document.activeElement.dataset.key !== key) root.querySelector(`[data-key="${key}"]`)?.focus();
    rove();
    answering = false;
    if (waiting) { post(waiting); waiting = ahead = null; }
  };
  root.addEventListener("focusin", rove);
  root.addEventListener("click", e => { const b = e.target.closest("button[data-act]"); if (b) act(b); });
  root.addEventListener("change", e => { if (e.target.matches("[data-act]:not([type=range])")) act(e.target); });
  root.addEventListener("input", e => {
    if (!e.target.matches("[type=range][data-act]")) return;
    const move = { act: e.target.dataset.act, value: e.target.value };
    if (answering) { waiting = move; ahead = e.target; } else post(move);
  });
  root.addEventListener("keydown", e => {
    e.stopPropagation();
    const group = e.target.matches("button") && e.target.closest("[role=group]"), all = group ? buttons(group) : [], at = all.indexOf(e.target);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[e.key];
    const order = { ArrowUp: group && group.dataset.up, ArrowDown: group && group.dataset.down }[e.key];
    if (all[to]) all[to].focus(); else if (order) post({ act: order }); else return;
    e.preventDefault();
  });
  model.on("change:frame", draw);
  draw();
  return () => model.off("change:frame", draw);
}
export default { render };
"""


class Panel(anywidget.AnyWidget):
    """A widget made of pure functions. A subclass names them; `state` is what they work on.

    `update(state, action) -> state` takes an action `{"act": name and arguments, "value": text}`; `view(state)` is the
    live HTML; `table(state)` plain HTML and `text(state)` plain text for places where nothing runs. An action
    that raises leaves the state as it was and says so. `act(action)` does from Python what a click does.

    >>> class Counter(Panel):
    ...     update = staticmethod(lambda count, action: count + int(action["value"]))
    ...     view = table = text = staticmethod(str)
    >>> counter = Counter(3)
    >>> counter.act({"act": "add", "value": "4"}), counter.act({"act": "add", "value": "one"})
    (7, 7)
    >>> counter._repr_mimebundle_()[0]["text/plain"]
    '7'
    """

    _esm = _SCRIPT
    _css = PANEL_CSS
    frame = traitlets.Dict().tag(sync=True)  # one message per answer: the page, and a count that makes each one new

    update = view = table = text = None

    def __init__(self, state):
        self.state = state
        super().__init__(frame=self._draw(0))
        self.on_msg(lambda widget, action, buffers: self.act(action))

    def act(self, action: dict) -> Any:
        """Apply one action and redraw; gives the state, changed or kept."""
        trouble = ""
        try:
            state = self.update(self.state, action)
            page = self.view(state)  # a state that cannot be shown is not kept
            self.state = state
        except Exception as error:
            page, trouble = self.view(self.state), f"That could not be done, and nothing was changed: {error or type(error).__name__}"
        self.frame = self._draw(self.frame["count"] + 1, page, trouble)
        return self.state

    def _draw(self, count, page=None, trouble=""):
        page = self.view(self.state) if page is None else page
        return {"count": count, "html": f'{page}<p class="cp-oops" role="alert">{html.escape(trouble)}</p>'}

    def __repr__(self):
        return self.text(self.state)

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and for readers without a kernel a table and a text, both the same on every machine."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/html": self.table(self.state), "text/plain": self.text(self.state)}, metadata
