// Connects the parts: one network is selected, and all parts show it.

let selected = byId.get(axis.first);

const frontierChart = new FrontierChart($("frontier-chart"), {
  onSelect: select,
  onZoom: (zoomed) => ($("zoom-out").hidden = !zoomed),
});
const trainingChart = new TrainingChart($("training-chart"), { onSelect: select });
const costTable = new CostTable($("costs-body"), $("preset"));
const table = new NetworkTable($("table"), { onSelect: selectFromTable });

function select(network) {
  selected = network;
  show();
  announce(`Selected ${network.label}: ${counted(network.relu_count, "ReLU", "ReLUs")}, ` +
    (unmeasured(network) ?? `test accuracy ${percent(network.test_accuracy)} percent`));
}

function selectFromTable(network) {
  select(network);
  // on a narrow screen the details are away from the table: go there, with a way back
  if (isNarrow()) $("details-title").focus();
}

function show() {
  showDetails(selected);
  table.mark(selected);
  const place = run.networks.indexOf(selected);
  $("previous").disabled = place === 0;
  $("next").disabled = place === run.networks.length - 1;
  drawCharts();
  costTable.draw(selected);
}

/** Show the frontier of another cost. */
function changeAxis(key) {
  axis = run.axes.find((each) => each.key === key);
  frontierChart.changeAxis();
  table.fill();
  showSummary();
  show();
  announce(`Frontier by ${axis.title}`);
}

function drawCharts() {
  frontierChart.draw(selected);
  if (!$("training").hidden) trainingChart.draw(selected, document.querySelector("[name=curve]:checked").value);
}

function step(by) {
  const next = run.networks[run.networks.indexOf(selected) + by];
  if (next) select(next);
}

function gainOf(network) {
  if (axis.name === "relus") {
    return network.relu_count ? `${timesFewer(network).toFixed(1)}\u00d7 fewer ReLUs` : "no ReLUs";
  }
  const words = { latency: "a latency of", bytes: "communication of" }[axis.name];
  const less = timesLess(network) === null ? "" : ` (${timesLess(network).toFixed(1)}\u00d7 less)`;
  return `${words} ${costText(costOf(network))}${less}`;
}

function showSummary() {
  const front = run.networks.filter(isOnFront);
  const best = byId.get(axis.first);
  const numbers = [`${whole(front.length)} on the frontier`];
  for (const kind of ["failed", "dropped"]) {
    const count = run.networks.filter((network) => unmeasured(network) === kind).length;
    if (count) numbers.push(`${whole(count)} ${kind}`);
  }
  const parts = [
    `${counted(run.networks.length - 1, "reduced network", "reduced networks")} of one teacher with`,
    `${whole(teacher.relu_count)} ReLUs; ${numbers.join(", ")}.`,
  ];
  if (!best.is_teacher) {
    parts.push(
      `${front.length > 2 ? "At its knee" : "On it"}, \u201c${best.label}\u201d has`,
      gainOf(best),
      `and ${percent(best.test_accuracy)} % test accuracy (teacher ${percent(teacher.test_accuracy)} %).`,
    );
  }
  $("summary").textContent = parts.join(" ");
  $("incomplete").hidden = run.complete;
}

$("axis").append(...run.axes.map(({ key, title }) => el("option", { value: key, selected: key === axis.key }, title)));
$("axis-choice").hidden = run.axes.length < 2;
$("costs").hidden = !run.presets.length;
$("axis").addEventListener("change", (event) => changeAxis(event.target.value));
$("preset").addEventListener("change", () => costTable.draw(selected));
showSummary();
showCriticality();
showReproduce();
$("training").hidden = !trainingChart.networks.length;
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("zoom-out").addEventListener("click", () => {
  frontierChart.showAll();
  $("frontier-title").focus(); // the focused button is hidden now
});
$("download").addEventListener("click", downloadCsv);
$("frontier-only").addEventListener("change", (event) => table.showFrontierOnly(event.target.checked));
$("back-to-table").addEventListener("click", (event) => {
  event.preventDefault();
  table.focus(selected);
});
for (const radio of document.querySelectorAll("[name=curve]")) radio.addEventListener("change", drawCharts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
addEventListener("resize", drawCharts);
show();
