"use strict";
// Tabs, and figures drawn when they are first seen. Without it everything is on one page, and tables have the numbers.
(() => {
  const draw = (part) => {
    for (const plot of part.querySelectorAll(".plot:not(.drawn)")) {
      const spec = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
      Plotly.newPlot(plot, spec.data, spec.layout, { displayModeBar: false, responsive: true });
      plot.classList.add("drawn");
    }
  };

  const list = document.querySelector(".tablist");
  if (list === null) {
    draw(document);
    return;
  }
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));

  const show = (chosen, focus) => {
    tabs.forEach((tab, place) => {
      const selected = place === chosen;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
      panels[place].hidden = !selected;
    });
    draw(panels[chosen]);
    if (focus) tabs[chosen].focus();
  };

  const choose = (chosen, focus) => {
    show(chosen, focus);
    history.replaceState(null, "", `#${panels[chosen].id}`);
  };

  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => choose(place, false));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const target = { Home: 0, End: tabs.length - 1 }[event.key];
      if (step === undefined && target === undefined) return;
      event.preventDefault();
      choose(target ?? (place + step + tabs.length) % tabs.length, true);
    });
  });

  addEventListener("beforeprint", () => {
    for (const panel of panels) panel.hidden = false;
    panels.forEach(draw);
  });

  list.hidden = false;
  const asked = panels.findIndex((panel) => `#${panel.id}` === location.hash);
  show(Math.max(0, asked), false);
})();
