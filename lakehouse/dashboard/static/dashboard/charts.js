// Draws every figure.chart from its data-drawing; uPlot paints, the colours are those of the style sheet.
"use strict";

const charts = (() => {
  const known = new Map();
  const HEIGHT = 260;
  // uPlot's own table of time axes says am and pm. Columns: step in s, text, and the text at a new year, day, minute.
  const CLOCK = [
    [31536000, "{YYYY}", null, null, null, null, null, null, 1],
    [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
    [0.001, ":{ss}.{fff}", "\n{D} {MMM} {YYYY} {HH}:{mm}", null, "\n{D} {MMM} {HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
  ];

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = (value) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 6 }));

  // A bar stands on those of the series behind it; the first one is painted first, as high as all of them.
  function stacked(series) {
    const sums = series[0].values.map(() => 0);
    const piles = [];
    for (const one of [...series].reverse()) {
      one.values.forEach((value, at) => (sums[at] += value || 0));
      piles.unshift([...sums]);
    }
    return piles;
  }

  function axis(more) {
    const grid = { stroke: style("--line"), width: 1 };
    return { stroke: style("--faint"), grid, ticks: grid, font: "12px system-ui, sans-serif", ...more };
  }

  function below(drawing) {
    if (drawing.kind === "time") return axis({ values: CLOCK, space: 70 });
    if (drawing.kind === "number") return axis({});
    const chars = drawing.x.length > 6 ? 14 : 24;
    const name = (at) => {
      const label = drawing.labels[at] ?? "";
      return label.length > chars ? `${label.slice(0, chars - 1)}…` : label;
    };
    return axis({ grid: { show: false }, splits: () => drawing.x, values: (_, at) => at.map((one) => name(Math.round(one))), space: 60 });
  }

  function options(drawing, width) {
    const bars = drawing.stacked || (drawing.kind === "label" && drawing.series.length === 1);
    const paths = bars ? uPlot.paths.bars({ size: [0.8, 48] }) : undefined;
    const lines = drawing.series.map((one, at) => {
      const colour = style(`--c${(at % 8) + 1}`);
      const raw = drawing.series[at].values;
      return {
        label: one.name,
        stroke: colour,
        fill: bars ? colour : undefined,
        width: bars ? 0 : 2,
        paths,
        points: { show: !bars && (drawing.kind === "label" || drawing.x.length < 40) },
        value: (_, __, ___, place) => (place == null ? "" : shown(raw[place])),
      };
    });
    const first = {
      label: drawing.kind === "time" ? "UTC" : drawing.kind === "label" ? " " : "x",
      value: (plot, value, _, place) => {
        if (value == null) return "";
        if (drawing.kind === "label") return drawing.labels[place] ?? "";
        return drawing.kind === "time" ? new Date(value * 1000).toISOString().replace("T", " ").slice(0, 19) : shown(value);
      },
    };
    const wide = (least, most) => [least - 0.5, most + 0.5];
    const minutes = (least, most) => [least - 30, most + 30];
    return {
      width,
      height: HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      series: [first, ...lines],
      scales: {
        x: {
          time: drawing.kind === "time",
          range: (_, least, most) => (drawing.kind === "label" ? wide(least, most) : drawing.stacked ? minutes(least, most) : least === most ? wide(least, most) : [least, most]),
        },
        y: { range: (_, least, most) => (bars ? [Math.min(0, least ?? 0), Math.max(1, most ?? 1) * 1.05] : uPlot.rangeNum(least ?? 0, most ?? 1, 0.1, true)) },
      },
      axes: [below(drawing), axis({ size: 64, values: (_, at) => at.map((one) => one.toLocaleString("en", { notation: "compact", maximumFractionDigits: 2 })) })],
      cursor: { drag: { x: false, y: false }, points: { show: !bars } },
    };
  }

  function draw(figure) {
    if (!figure.clientWidth) return; // hidden; it is drawn when somebody looks
    known.get(figure)?.destroy();
    const drawing = JSON.parse(figure.dataset.drawing);
    const values = drawing.stacked ? stacked(drawing.series) : drawing.series.map((one) => one.values);
    known.set(figure, new uPlot(options(drawing, figure.clientWidth), [drawing.x, ...values], figure));
    figure.classList.add("drawn");
  }

  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = Math.floor(target.clientWidth);
      const plot = known.get(target);
      if (!plot) draw(target);
      else if (width && plot.width !== width) plot.setSize({ width, height: HEIGHT });
    }
  });

  return {
    find() {
      for (const figure of known.keys()) {
        if (!figure.isConnected) {
          known.get(figure).destroy();
          known.delete(figure);
          sizes.unobserve(figure);
        }
      }
      for (const figure of document.querySelectorAll("figure.chart:not(.drawn)")) sizes.observe(figure);
    },
    again() {
      for (const figure of [...known.keys()]) draw(figure);
    },
  };
})();
