// Draws the trade-off with the page's own colours (again when the system turns dark or light), folds long groups of
// axes, and lets one track play at a time at one common position. Everything but the plot is readable without it.
"use strict";

const plot = document.getElementById("tradeoff");
const data = JSON.parse(document.getElementById("tradeoff-data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function traces() {
  const soft = css("--soft");
  const all = [...data.submodels.map((s, i) => ({ ...s, colour: css(`--s${i % 6}`) })), { ...data.full, colour: css("--ink") }];
  const marks = (kind, key, marker, label) => {
    const points = all.filter((s) => s[key] !== null);
    return {
      type: "scatter", showlegend: false, legendgroup: kind, mode: label ? "markers+text" : "markers", name: kind,
      x: points.map((s) => s.macs), y: points.map((s) => s[key]), customdata: points.map((s) => s.name),
      text: points.map((s) => (s.macs === data.full.macs ? "" : s.name)), // the dashed line names the full model
      textposition: "top center", textfont: { color: css("--ink") }, cliponaxis: false,
      marker: { ...marker, color: points.map((s) => s.colour), line: { width: marker.open ? 2 : 0, color: points.map((s) => s.colour) } },
      hovertemplate: `<b>%{customdata}</b>, ${kind.toLowerCase()}<br>%{y:.2f} dB at %{x:.4s} MACs<extra></extra>`,
    };
  };
  const search = {
    type: "scatter", mode: "markers", name: "Searched (on songs of its own)", legendgroup: "search",
    x: data.searched.map((p) => p[0]), y: data.searched.map((p) => p[1]), marker: { color: soft, size: 5, opacity: 0.7 },
    hovertemplate: "%{y:.2f} dB at %{x:.4s} MACs<extra>searched</extra>",
  };
  const front = {
    type: "scatter", mode: "lines", showlegend: false, legendgroup: "search", hoverinfo: "skip",
    x: data.front.map((p) => p[0]), y: data.front.map((p) => p[1]), line: { color: soft, width: 1, dash: "dot", shape: "hv" },
  };
  // Shapes tell the kinds apart and colours the submodels, so the legend shows the shapes without a colour.
  const legend = (trace) => [trace, {
    type: "scatter", mode: "markers", name: trace.legendgroup, legendgroup: trace.legendgroup, x: [null], y: [null], hoverinfo: "skip",
    marker: { symbol: trace.marker.symbol, size: 10, color: soft, line: { width: trace.marker.open ? 2 : 0, color: soft } },
  }];
  return [front, search, ...[
    marks("Naive slice", "si_sdri_naive", { size: 11, symbol: "x-thin-open", open: true }, false),
    marks("Trained alone", "si_sdri_alone", { size: 14, symbol: "diamond-open", open: true }, false),
    marks("Chosen submodel", "si_sdri", { size: 12, symbol: "circle" }, true),
  ].filter((trace) => trace.x.length > 0).flatMap(legend)];
}

function layout() {
  const axis = { gridcolor: css("--rule"), zerolinecolor: css("--soft"), linecolor: css("--rule"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: css("--ink") },
    margin: { l: 56, r: 16, t: 8, b: 48 }, hoverlabel: { bgcolor: css("--page"), bordercolor: css("--soft"), font: { color: css("--ink") } },
    xaxis: { ...axis, title: { text: "MACs per second of audio" }, rangemode: "tozero", tickformat: "~s" },
    yaxis: { ...axis, title: { text: "SI-SDR improvement (dB)" } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemclick: "toggle" },
    shapes: [{ type: "line", x0: data.full.macs, x1: data.full.macs, y0: 0, y1: 1, yref: "paper", line: { color: css("--soft"), width: 1, dash: "dash" } }],
    annotations: [{ x: data.full.macs, y: 0, yref: "paper", xanchor: "right", yanchor: "bottom", text: "full model ", showarrow: false, font: { color: css("--soft") } }],
  };
}

const draw = () => Plotly.react(plot, traces(), layout(), { displaylogo: false, responsive: true, displayModeBar: false });
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

for (const button of document.querySelectorAll(".space button")) {
  const parts = document.getElementById(button.getAttribute("aria-controls"));
  parts.hidden = true;
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    parts.hidden = !parts.hidden;
    button.setAttribute("aria-expanded", String(!parts.hidden));
  });
}

const players = [...document.querySelectorAll("audio")];
const together = document.getElementById("together");
let last = null;
for (const player of players) {
  const track = player.closest(".track");
  const cursor = track.querySelector(".cursor");
  const measured = () => { track.dataset.seconds = player.duration.toFixed(3); };
  if (player.readyState > 0) measured();
  else player.addEventListener("loadedmetadata", measured);
  player.addEventListener("play", () => {
    if (last && last !== player) {
      if (together.checked) player.currentTime = last.currentTime;
      last.pause();
    }
    last = player;
  });
  player.addEventListener("timeupdate", () => {
    cursor.style.opacity = "0.9";
    cursor.style.left = `${(100 * player.currentTime) / player.duration}%`;
  });
  track.querySelector(".spectrogram").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    player.currentTime = (player.duration * (event.clientX - box.left)) / box.width;
  });
}
