// The plots, in the colours of the style sheet; redrawn when those change.

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["card", "ink", "soft", "rule", "grid", "faint", "accent", "teacher"].map(
    (name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

const onTouch = matchMedia("(pointer: coarse)").matches;
// on touch screens, dragging scrolls the page; the buttons of plotly.js can't be reached by keyboard
const CHART_OPTIONS = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false };

/** Escape a text for plotly.js, which interprets some markup. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function layoutOf(colour, { x, y }) {
  const axis = {
    gridcolor: colour.grid, linecolor: colour.rule, zeroline: false, fixedrange: onTouch, ticks: "outside",
    tickcolor: colour.rule, automargin: true,
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour.soft },
    margin: { l: 56, r: 12, t: 8, b: 48 },
    showlegend: false, hovermode: "closest", dragmode: onTouch ? false : "zoom",
    hoverlabel: {
      bgcolor: colour.card, bordercolor: colour.faint, align: "left",
      font: { color: colour.ink, size: 13, family: getComputedStyle(document.body).fontFamily },
    },
    xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y },
  };
}

// -- the frontier

/** The log axis of costs, and a network's position on it; networks of cost 0 are left of a break. */
function costAxis(networks) {
  const positive = networks.map(costOf).filter((cost) => cost > 0).map(Math.log10);
  if (!positive.length) positive.push(3);
  const [least, most] = [Math.min(...positive), Math.max(...positive)];
  const room = Math.max(0.08 * (most - least), 0.12);
  const low = least - room;
  const zero = networks.some((n) => costOf(n) === 0) ? low - 2 * room : null;
  return {
    low, zero,
    range: [zero === null ? low : zero - room, most + room],
    x: (network) => (costOf(network) > 0 ? costOf(network) : 10 ** zero),
  };
}

/** Ticks at round costs between two logarithms, at most `most` if possible. */
function costTicks(scale, [start, end], most) {
  const low = Math.max(start, scale.zero === null ? start : scale.low);
  const isWhole = axis.name !== "latency";
  const found = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]].map((leading) => {
    const ticks = [];
    for (let decade = Math.floor(low); decade <= Math.ceil(end); decade += 1) {
      for (const digit of leading) {
        const tick = Number((digit * 10 ** decade).toPrecision(3));
        if (Math.log10(tick) < low || Math.log10(tick) > end) continue;
        if (!isWhole || Number.isInteger(tick)) ticks.push(tick);
      }
    }
    return ticks;
  });
  const fitting = found.filter((ticks) => ticks.length <= most);
  const ticks = fitting.length ? fitting[fitting.length - 1] : found[0];
  const names = ticks.map(shortCost);
  if (scale.zero === null) return { tickvals: ticks, ticktext: names };
  return { tickvals: [10 ** scale.zero, ...ticks], ticktext: ["0", ...names] };
}

function hoverText(network) {
  const fewer = network.is_teacher || !network.relu_count ? "" : ` (${timesFewer(network).toFixed(1)}\u00d7 fewer)`;
  const stages = run.stages.map((stage) => `${stage} ${short(network.stages[stage])}`);
  const less = network.is_teacher || !timesLess(network) ? "" : ` (${timesLess(network).toFixed(1)}\u00d7 less)`;
  const lines = [`${whole(network.relu_count)} ReLUs${fewer}`];
  if (axis.name !== "relus") lines.unshift(`${axis.name} ${costText(costOf(network))}${less}`);
  // one line with all stages of a deep network would be wider than the plot
  for (let i = 0; i < stages.length; i += 4) lines.push(stages.slice(i, i + 4).join(" \u00b7 "));
  lines.push(`test ${percent(network.test_accuracy)} %, validation ${percent(network.val_accuracy)} %`);
  const name = network.label.length > 60 ? `${network.label.slice(0, 59)}\u2026` : network.label;
  return [`<b>${plain(name)}</b>`, ...lines.map(plain), `plan ${plain(network.id)}`].join("<br>");
}

class FrontierChart {
  constructor(element, { onSelect, onZoom }) {
    this.element = element;
    this.onSelect = onSelect;
    this.onZoom = onZoom;
    this.measure();
  }

  /** Find the networks of known cost, and the axes' ranges. */
  measure() {
    this.networks = run.networks.filter((network) => network.test_accuracy !== null && costOf(network) !== null);
    this.scale = costAxis(this.networks);
    const percents = this.networks.map((n) => 100 * n.test_accuracy);
    const [low, high] = [Math.min(...percents), Math.max(...percents)];
    // at least one percent high, so that the noise of training does not fill the plot
    const margin = Math.max(0.09 * (high - low), (1 - (high - low)) / 2);
    this.whole = { x: this.scale.range, y: [low - margin, high + margin] };
    this.view = this.whole;
  }

  draw(selected) {
    const colour = colours();
    const most = Math.max(4, Math.floor(this.element.clientWidth / 95));
    const layout = layoutOf(colour, {
      x: {
        title: { text: plain(`${axis.title} (log scale)`) }, type: "log", range: [...this.view.x],
        ...costTicks(this.scale, this.view.x, most),
      },
      y: { title: { text: "Test accuracy (%)", standoff: 12 }, range: [...this.view.y], nticks: 8 },
    });
    if (this.scale.zero !== null) {
      layout.annotations = [{
        x: (this.scale.zero + this.scale.low) / 2, xref: "x", y: 0, yref: "paper", yanchor: "middle",
        text: "//", showarrow: false, bgcolor: colour.card, font: { color: colour.soft },
      }];
    }
    Plotly.react(this.element, this.traces(colour, selected), layout, CHART_OPTIONS);
    if (this.selected === undefined) {
      this.element.on("plotly_click", ({ points }) => this.onSelect(byId.get(points[0].customdata)));
      this.element.on("plotly_relayout", () => this.afterZoom());
    }
    this.selected = selected;
  }

  traces(colour, selected) {
    const points = (name, networks, marker = {}) => ({
      name, type: "scatter", mode: "markers",
      x: networks.map((n) => this.scale.x(n)), y: networks.map((n) => 100 * n.test_accuracy),
      customdata: networks.map((n) => n.id), text: networks.map(hoverText), hoverinfo: "text", marker,
    });
    const front = this.networks.filter(isOnFront).sort((a, b) => costOf(a) - costOf(b));
    const shown = (network) => this.networks.includes(network);
    const many = this.networks.length > 60;
    const edge = { width: many ? 1 : 1.5, color: colour.card };
    const line = {
      ...points("line", front), mode: "lines", hoverinfo: "skip", line: { color: colour.accent, width: 2 },
    };
    const ring = {
      ...points("selected", shown(selected) ? [selected] : []), hoverinfo: "skip",
      marker: { symbol: "circle-open", size: 20, color: colour.ink, line: { width: 2 } },
    };
    return [
      line,
      points("others", this.networks.filter((n) => !isOnFront(n) && !n.is_teacher),
        { symbol: "circle-open", size: many ? 6 : 9, color: colour.faint, line: { width: many ? 1.5 : 2 } }),
      points("frontier", front.filter((n) => !n.is_teacher),
        { symbol: "circle", size: many ? 8 : 11, color: colour.accent, line: edge }),
      points("teacher", shown(teacher) ? [teacher] : [], { symbol: "diamond", size: 12, color: colour.teacher, line: edge }),
      ring,
    ];
  }

  afterZoom() {
    const { xaxis, yaxis } = this.element.layout;
    if (String([xaxis.range, yaxis.range]) === String([this.view.x, this.view.y])) return;
    this.show({ x: [...xaxis.range], y: [...yaxis.range] });
  }

  show(view) {
    this.view = view;
    this.draw(this.selected);
    this.onZoom(String([view.x, view.y]) !== String([this.whole.x, this.whole.y]));
  }

  showAll() {
    this.show(this.whole);
  }

  /** Adapt the chart to the newly chosen axis. */
  changeAxis() {
    this.measure();
    this.onZoom(false);
  }
}

// -- training

class TrainingChart {
  constructor(element, { onSelect }) {
    this.element = element;
    this.onSelect = onSelect;
    this.networks = run.networks.filter((network) => network.history.epoch.length);
  }

  draw(selected, curve) {
    const colour = colours();
    const last = Math.max(...this.networks.map((n) => n.history.epoch.length));
    const isAccuracy = curve === "val_accuracy";
    const layout = layoutOf(colour, {
      x: { title: { text: "Epoch" }, ...(last > 10 ? { nticks: 10 } : { dtick: 1 }) },
      y: { title: { text: isAccuracy ? "Validation accuracy (%)" : "Training loss", standoff: 12 } },
    });
    const lines = (network, line) => {
      const values = network.history[curve].map((value) => (isAccuracy && value !== null ? 100 * value : value));
      return {
        name: network.label, type: "scatter", line, connectgaps: true, hoverinfo: "text",
        mode: network.history.epoch.length < 12 ? "lines+markers" : "lines", marker: { size: 5 },
        x: network.history.epoch, y: values, customdata: values.map(() => network.id),
        text: values.map((value, i) => [
          `<b>${plain(network.label)}</b>`, `epoch ${network.history.epoch[i]}`,
          isAccuracy ? `validation ${value === null ? NOTHING : value.toFixed(2)} %` : `loss ${value}`,
        ].join("<br>")),
      };
    };
    const others = this.networks.filter((n) => n !== selected && !n.is_teacher);
    const traces = others.map((n) => lines(n, { color: colour.faint, width: 1 }));
    for (const trace of traces) trace.opacity = 0.6;
    if (teacher.history.epoch.length) {
      traces.push(lines(teacher, { color: colour.teacher, width: 2.5, dash: "dash" }));
    }
    if (selected.history.epoch.length && selected !== teacher) {
      traces.push(lines(selected, { color: colour.accent, width: 3 }));
    }
    Plotly.react(this.element, traces, layout, CHART_OPTIONS);
    if (!this.listening) {
      this.listening = true;
      this.element.on("plotly_click", ({ points }) => this.onSelect(byId.get(points[0].customdata)));
    }
  }
}
