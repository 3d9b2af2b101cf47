// The selected network compared to the original, the criticality of the stages, and how to repeat the run.

function showDetails(network) {
  $("details-title").textContent = network.label;
  const parts = [figuresOf(network)];
  if (network.failure !== null) {
    const what = network.is_dropped ? "Dropped" : "Training failed";
    parts.unshift(el("p", { class: "notice" }, `${what}: ${network.failure}`));
  }
  parts.push(
    ...stagesOf(network),
    ...pricesOf(network),
    el("h3", {}, "Use it"),
    snippet("Python", network.snippet, { wrap: true }),
    ...sitesOf(network),
    unfolding("plan", "Plan as JSON", snippet("Plan", JSON.stringify(network.plan, null, 2))),
  );
  $("details-body").replaceChildren(...parts);
}

/** Names of the open parts, which stay open when another network is selected. */
const unfolded = new Set(isNarrow() ? [] : ["sites"]);

function unfolding(name, title, content) {
  const remember = (event) => (event.target.open ? unfolded.add(name) : unfolded.delete(name));
  return el("details", { open: unfolded.has(name), ontoggle: remember }, el("summary", {}, title), content);
}

function figuresOf(network) {
  const figure = (name, value, beside = null, kind = null) =>
    el("div", { class: kind }, el("dt", {}, name), el("dd", {}, value, beside && el("small", {}, beside)));
  const times = timesFewer(network);
  const fewer = times === null ? "no ReLU left" : `${times.toFixed(1)}\u00d7 fewer than the teacher`;
  const difference = `${signed(againstTeacher(network))} points against the teacher`;
  const measured = network.test_accuracy !== null;
  return el("dl", { class: "figures" },
    figure("ReLUs", whole(network.relu_count), network.is_teacher ? "the original" : fewer, "main"),
    figure("Test accuracy", measured ? `${percent(network.test_accuracy)} %` : NOTHING,
      measured && !network.is_teacher ? difference : null, "main"),
    figure("Validation accuracy", measured ? `${percent(network.val_accuracy)} %` : NOTHING,
      measured ? "used to choose networks" : null),
    figure("Disagrees with teacher", measured ? `${percent(network.churn)} %` : NOTHING,
      measured ? "of test images" : null),
    figure("Multiply-accumulates", measured ? short(network.macs) : NOTHING),
    figure("Training", duration(network.train_seconds)),
    figure("Folder in the run", network.folder, null, "wide"),
  );
}

/** The costs of one image under secure computation, for every preset with an estimate. */
function pricesOf(network) {
  const known = run.presets.filter(({ name }) => name in network.prices);
  if (!known.length) return [];
  const rows = known.map(({ name, basis }) => {
    const price = network.prices[name];
    return el("tr", {},
      el("th", { scope: "row" }, basis),
      el("td", { class: "number" }, shortSeconds(total(price.seconds))),
      el("td", { class: "number" }, shortBytes(total(price.bytes))),
      el("td", { class: "number" }, whole(Math.round(price.rounds))));
  });
  const heads = [
    { name: "Under" }, { name: "latency", number: true }, { name: "bytes", number: true },
    { name: "rounds", number: true },
  ];
  return [el("h3", {}, "One image costs"), tableOf(heads, rows, { class: "bars", id: "prices" })];
}

function stagesOf(network) {
  if (network.stages === null) return [];
  const most = Math.max(...Object.values(teacher.stages), 1);
  const rows = run.stages.map((stage) => {
    const [kept, had] = [network.stages[stage] ?? 0, teacher.stages[stage] ?? 0];
    return el("tr", { class: kept ? null : "gone" },
      el("th", { scope: "row" }, stage),
      el("td", { class: "bar" }, bar(kept / most, had / most)),
      el("td", { class: "number" }, whole(kept)),
      el("td", { class: "number" }, whole(had)));
  });
  return [el("h3", {}, "ReLUs per stage"), tableOf(besideOriginal("Stage"), rows, { class: "bars", id: "stages" })];
}

function sitesOf(network) {
  const kept = new Map(network.sites.map(([name, , count]) => [name, count]));
  const actions = new Map(network.sites.map(([name, , , action]) => [name, action]));
  const known = new Set(teacher.sites.map(([name]) => name));
  // a site that the original does not have can come from a change of depth
  const sites = [...teacher.sites, ...network.sites.filter(([name]) => !known.has(name)).map(([n, s]) => [n, s, 0])];
  if (!sites.length) return [];
  const most = Math.max(...sites.map(([, , count]) => count), ...kept.values(), 1);
  const rows = [];
  let group = null;
  for (const [name, stage, had] of sites) {
    if (stage !== group) {
      group = stage;
      rows.push(el("tr", { class: "group" }, el("th", { colspan: "4", scope: "colgroup" }, stage)));
    }
    const count = kept.get(name) ?? 0;
    rows.push(el("tr", { class: count ? null : "gone" },
      el("th", { scope: "row" }, name, actions.get(name) ? el("small", {}, actions.get(name)) : null),
      el("td", { class: "bar" }, bar(count / most, had / most)),
      el("td", { class: "number" }, whole(count)),
      el("td", { class: "number" }, whole(had))));
  }
  const live = network.sites.filter(([, , count]) => count).length;
  const title = `ReLUs per site: ${live} of ${sites.length} sites kept`;
  return [unfolding("sites", title, tableOf(besideOriginal("Site"), rows, { class: "bars", id: "sites" }))];
}

const besideOriginal = (name) => [
  { name }, { name: el("span", { class: "unseen" }, "Bar"), class: "bar" },
  { name: "kept", number: true }, { name: "original", number: true },
];

// -- criticality

function showCriticality() {
  if (!run.criticality.length) {
    $("criticality").hidden = true;
    return;
  }
  const most = Math.max(...run.criticality.map((worth) => worth.criticality ?? 0), 1e-12);
  const order = [...run.criticality].sort((a, b) => (a.criticality ?? 0) - (b.criticality ?? 0));
  const rows = order.map((worth) => el("tr", {},
    el("th", { scope: "row" }, worth.stage),
    el("td", { class: "bar" }, bar((worth.criticality ?? 0) / most)),
    el("td", { class: "number" }, worth.criticality === null ? NOTHING : worth.criticality.toPrecision(4)),
    el("td", { class: "number" }, `${percent(worth.val_accuracy)}`),
    el("td", { class: "number" }, whole(teacher.stages[worth.stage] ?? null))));
  const heads = [
    { name: "Stage" }, { name: el("span", { class: "unseen" }, "Bar"), class: "bar" },
    { name: "criticality", number: true }, { name: "val. % alone", number: true },
    { name: "ReLUs", number: true },
  ];
  $("criticality-body").append(
    el("p", { class: "note" }, "The value of a stage's ReLUs relative to their number, computed from the validation",
      " accuracy with ReLUs in that stage only. The least critical stage is culled first, the most critical is kept."),
    tableOf(heads, rows, { class: "bars", id: "criticality-table" }));
}

// -- reproduce

function showReproduce() {
  const parts = [];
  if (run.commands.given !== null) {
    parts.push(snippet("The command that started this run", run.commands.given, { wrap: true }));
  } else {
    parts.push(el("p", { class: "note" }, "This run was started from Python, with the config below."));
  }
  parts.push(
    snippet("The command that repeats it, from its config", run.commands.again, { wrap: true }),
    el("details", {}, el("summary", {}, "Config (config.yaml)"), snippet("config.yaml", run.config)),
    el("h3", {}, "Environment"),
    el("dl", { class: "facts", id: "environment" },
      ...run.environment.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
  );
  $("reproduce-body").append(...parts);
}
