"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = read("dark-colours");
  const figures = read("figures");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 620px)");

  // Figures are made in the light colours; a colour that has a dark partner is swapped wherever it stands.
  const recolour = (value) => {
    if (typeof value === "string") return dark[value] || value;
    if (Array.isArray(value)) return value.map(recolour);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, recolour(inner)]));
    return value;
  };

  // On a phone the colour bar goes and the labels shrink: the plot itself needs the width.
  const slim = (figure) => {
    for (const trace of figure.data) {
      if (trace.marker && trace.marker.showscale) trace.marker.showscale = false;
      if (trace.type === "heatmap") trace.showscale = false;
    }
    return figure;
  };

  const draw = (printing) => {
    for (const [id, source] of Object.entries(figures)) {
      const light = printing || !prefersDark.matches;
      let figure = light ? structuredClone(source) : recolour(source);
      if (narrow.matches && !printing) figure = slim(figure);
      Plotly.react(id, figure.data, figure.layout, {
        responsive: true,
        displaylogo: false,
        displayModeBar: false,
        scrollZoom: false,
        showTips: false,
      });
    }
  };

  draw(false);
  prefersDark.addEventListener("change", () => draw(false));
  narrow.addEventListener("change", () => draw(false));
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details[data-print]")) details.open = true;
    draw(true);
  });
  window.addEventListener("afterprint", () => draw(false));
})();
