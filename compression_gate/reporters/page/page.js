(() => {
  "use strict";
  const tip = document.getElementById("tip");
  const hide = () => { tip.style.opacity = 0; };
  const place = (node, x) => {
    tip.textContent = node.dataset.tip;
    const box = node.getBoundingClientRect();
    const left = Math.min((x ?? box.left + box.width / 2) - tip.offsetWidth / 2, innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above < 4 ? box.bottom + 8 : above}px`;
    tip.style.opacity = 1;
  };
  const marked = (target) => target && target.closest && target.closest("[data-tip]");
  const show = (event) => {
    const node = marked(event.target);
    if (node) place(node, event.type === "pointermove" ? event.clientX : undefined);
    else hide();
  };
  // Moving on by the keyboard scrolls: what has the focus keeps its words.
  const follow = () => { const node = marked(document.activeElement); if (node) place(node); else hide(); };
  addEventListener("pointermove", show);
  addEventListener("focusin", show);
  addEventListener("focusout", hide);
  addEventListener("scroll", follow, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
})();
