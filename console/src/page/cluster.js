// The cluster, as the node of this service sees it.

const SHARDS = [["here", "running", "on this node"], ["moving", "starting", "moving"], ["ending", "restarting", "ending"], ["stuck", "alarm", "stuck"], ["vacant", "stopping", "without an owner"]];
const CALLS = ["calls", "answered", "not_delivered", "no_reply", "timed_out", "failed", "casts", "casts_failed"];

/** Reads again and again while a view is open. An answer that arrives after the view was left shows nothing. */
function repeat(path, milliseconds, show, fail) {
  let timer = 0, isOpen = false;
  const read = async () => {
    try {
      const answer = await ask(path);
      if (isOpen) show(answer);
    } catch (error) {
      if (isOpen) fail(error);
    }
  };
  return {
    enter() {
      isOpen = true;
      read();
      timer = setInterval(() => document.hidden || read(), milliseconds);
    },
    leave() {
      isOpen = false;
      clearInterval(timer);
    },
  };
}

function clusterView() {
  const problem = el("div"), facts = el("dl", { className: "facts two" }), calls = el("dl", { className: "facts two" });
  const name = el("h2"), parts = SHARDS.map(([, className]) => el("span", { className }));
  const counts = SHARDS.map(() => el("b")), stack = el("div", { className: "stack", role: "img" }, parts);
  const legend = SHARDS.map(([, className, label], index) => el("span", {}, el("span", { className: `dot ${className}` }), counts[index], ` ${label}`));
  const head = el("section", { className: "card", "aria-label": "Shards" }, el("div", { className: "head" }, name,
    el("div", { className: "size" }, stack, el("div", { className: "legend" }, legend))), facts);
  const rows = el("tbody"), nodes = el("section", { className: "card", "aria-label": "Nodes" }, el("h2", {}, "Nodes"), el("div", { className: "scroll list" }, el("table", {},
    el("thead", {}, el("tr", {}, NODE_COLUMNS.map(label => el("th", { scope: "col", className: "padded" }, label)))), rows)));
  const sent = el("section", { className: "card", "aria-label": "Sends through this node" }, el("h2", {}, "Sends through this node"), calls);
  const show = cluster => {
    problem.replaceChildren();
    setText(name, cluster.name);
    // What is stuck is a part of what moves.
    const shards = { ...cluster.shards, moving: cluster.shards.moving - cluster.shards.stuck };
    const all = SHARDS.reduce((sum, [shard]) => sum + shards[shard], 0);
    SHARDS.forEach(([shard], index) => {
      parts[index].style.flexBasis = `${all ? shards[shard] / all * 100 : 0}%`;
      setText(counts[index], whole(shards[shard]));
      legend[index].hidden = shards[shard] === 0 && index > 0;
    });
    stack.setAttribute("aria-label", SHARDS.map(([shard, , label]) => `${shards[shard]} ${label}`).join(", "));
    showPairs(facts, clusterFacts(cluster));
    showPairs(calls, CALLS.map(call => [call.replaceAll("_", " "), whole(cluster[call])]));
    showNodes(rows, cluster);
    for (const card of [head, nodes, sent]) card.hidden = false;
  };
  const fail = error => {
    problem.replaceChildren(error.code === "no_cluster" ? el("div", { className: "card" }, empty("No cluster is shown", "The program gives its cluster to the console.")) : failure(error.message));
    if (error.code === "no_cluster") for (const card of [head, nodes, sent]) card.hidden = true;
  };
  for (const card of [head, nodes, sent]) card.hidden = true;
  return { title: "Cluster", nodes: [el("h1", {}, "Cluster"), problem, head, nodes, sent], update() {}, wanted: "", ...repeat("cluster", 2_000, show, fail) };
}

const NODE_COLUMNS = ["Node", "Address", "State", "Weight", "Version", "Seen"];

function clusterFacts(cluster) {
  const engine = (cluster.engine_away ? "does not answer" : "answers") + (cluster.engine_error ? `; last error: ${cluster.engine_error}` : "");
  return [
    ["This node", cluster.node],
    ["Serves", cluster.valid ? `for ${duration(cluster.valid)} more without the engine` : "no: all its workers are stopped"],
    ["Engine", engine],
    ["Workers here", whole(cluster.workers)],
    ["Shards moved", whole(cluster.moved)],
    ["Fences", whole(cluster.fences)],
  ];
}

function showPairs(list, pairs) {
  if (list.childElementCount !== pairs.length * 2) {
    list.replaceChildren(...pairs.flatMap(([name]) => [el("dt", {}, name), el("dd")]));
  }
  list.querySelectorAll("dd").forEach((value, index) => setText(value, pairs[index][1]));
}

function showNodes(rows, cluster) {
  rows.replaceChildren(...cluster.nodes.map(node => {
    const isHere = node.id === cluster.node;
    const state = node.leaving ? ["restarting", "leaving"] : isHere || node.connected ? ["running", isHere ? "this node" : "connected"] : ["stopping", "not connected"];
    const cells = [el("span", { className: "key" }, node.id), node.address, el("span", { className: "state" }, el("span", { className: `dot ${state[0]}` }), state[1]),
      whole(node.weight), whole(node.version), isHere ? "\u2013" : `${duration(node.seen)} ago`];
    return el("tr", {}, cells.map((cell, index) => el("td", { "data-label": NODE_COLUMNS[index], className: index ? "" : "key" }, cell)));
  }));
}
