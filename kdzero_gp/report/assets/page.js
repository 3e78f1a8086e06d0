"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- tables that can be sorted; what has no number stays last ---------------------------------------------
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const sort = (table, column, sign) => {
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, other) => {
      const a = valueOf(one, column), b = valueOf(other, column);
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
    });
    table.tBodies[0].append(...rows);
  };
  for (const table of all("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending ? 1 : -1);
    }));
  }

  // --- what is folded opens for a link to it or into it, and for the printer ---------------------------------
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const own = target.matches(".panel") ? target.querySelector(".fold") : target;
    for (let one = own; one; one = one.parentElement) if (one.matches("details")) one.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  for (const link of all('a[href^="#"]')) link.addEventListener("click", () => setTimeout(unfold));
  addEventListener("beforeprint", () => all("details.fold").forEach((one) => { one.open = true; }));
  unfold();

  // --- texts to copy ----------------------------------------------------------------------------------------
  for (const button of all(".copier")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      } catch {
        getSelection().selectAllChildren(code);
      }
    });
  }

  // --- the genealogy ----------------------------------------------------------------------------------------
  const picture = document.querySelector("svg.genealogy");
  if (!picture) return;
  const births = JSON.parse(document.getElementById("births").textContent);
  const stage = picture.parentElement, moved = picture.querySelector(".moved");
  const facts = document.querySelector(".facts"), tools = document.querySelector(".tools");
  const full = { width: picture.viewBox.baseVal.width, height: picture.viewBox.baseVal.height };
  const nodes = all(".node", picture);
  const byKey = new Map(nodes.map((node) => [node.dataset.key, node]));
  const parents = new Map(nodes.map((node) => [node, node.dataset.parents.split(" ").filter(Boolean).map((k) => byKey.get(k))]));
  const children = new Map(nodes.map((node) => [node, nodes.filter((other) => parents.get(other).includes(node))]));
  const centre = (node) => {
    const box = node.querySelector("rect");
    return { x: +box.getAttribute("x") + box.getAttribute("width") / 2, y: +box.getAttribute("y") + box.getAttribute("height") / 2 };
  };
  const winner = nodes.find((node) => node.classList.contains("winner"));
  const view = { x: 0, y: 0, scale: 1 };
  picture.removeAttribute("viewBox");
  picture.removeAttribute("width");
  picture.removeAttribute("height");
  stage.classList.add("live");
  tools.hidden = false;

  const fitting = () => {  // as high as the picture needs, within reason
    stage.style.height = `${Math.min(Math.max(full.height + 20, 320), innerWidth < 704 ? 460 : 640)}px`;
  };
  const draw = () => moved.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
  const size = () => ({ width: stage.clientWidth, height: stage.clientHeight });
  const fit = (least) => {
    const { width, height } = size();
    view.scale = Math.min(1, width / full.width, height / full.height);
    if (view.scale >= least) {
      view.x = (width - full.width * view.scale) / 2;
      view.y = (height - full.height * view.scale) / 2;
    } else {  // too small to read: the winner first
      const place = centre(winner);
      view.scale = least;
      view.x = full.width * least <= width ? (width - full.width * least) / 2 : width / 2 - place.x * least;
      view.y = height - 34 * least - place.y * least;
    }
    draw();
  };
  const zoom = (factor, x = size().width / 2, y = size().height / 2) => {
    const scale = Math.min(3, Math.max(0.1, view.scale * factor)), by = scale / view.scale;
    view.x = x - (x - view.x) * by;
    view.y = y - (y - view.y) * by;
    view.scale = scale;
    draw();
  };
  const reveal = (node) => {
    const { width, height } = size(), place = centre(node), edge = 80 * view.scale, rim = 34 * view.scale;
    const x = view.x + place.x * view.scale, y = view.y + place.y * view.scale;
    view.x += Math.max(0, edge - x) - Math.max(0, x - width + edge);
    view.y += Math.max(0, rim - y) - Math.max(0, y - height + rim);
    draw();
  };

  const element = (name, content, kind) => {
    const made = document.createElement(name);
    if (content !== undefined) made.textContent = content;
    if (kind) made.className = kind;
    return made;
  };
  const told = (step) => {
    const list = element("dl");
    for (const [name, value] of [["origin", step.origin], ["generation", step.generation], ["fitness", step.fitness]]) {
      list.append(element("dt", name), element("dd", value));
    }
    return [list, element("code", step.expression)];
  };
  const choose = (node) => {
    all(".chosen", picture).forEach((other) => { other.classList.remove("chosen"); other.removeAttribute("aria-pressed"); });
    node.classList.add("chosen");
    node.setAttribute("aria-pressed", "true");
    const birth = births[node.dataset.key];
    facts.replaceChildren(element("h3", birth.title));
    if (birth.count === 1 && birth.steps.length === 1) {
      facts.append(...told(birth.steps[0]));
      return;
    }
    for (const step of birth.steps) {
      facts.append(element("h3", `Birth ${step.number}`), ...told(step));
    }
    if (birth.count > birth.steps.length) {
      facts.append(element("p", `and ${(birth.count - birth.steps.length).toLocaleString("en")} more`, "small"));
    }
  };
  const focus = (node) => {
    nodes.forEach((other) => other.setAttribute("tabindex", other === node ? "0" : "-1"));
    node.focus({ preventScroll: true });
    reveal(node);
  };
  const beside = (node, sign) => {
    const here = centre(node);
    const there = nodes.filter((other) => sign * (centre(other).x - here.x) > 1);
    const distance = (other) => Math.abs(centre(other).x - here.x) + 4 * Math.abs(centre(other).y - here.y);
    return there.sort((one, other) => distance(one) - distance(other))[0];
  };
  const first = (list) => list.find((node) => node.classList.contains("main")) || list[0];
  const keys = {
    ArrowUp: (node) => first(parents.get(node)), ArrowDown: (node) => first(children.get(node)),
    ArrowLeft: (node) => beside(node, -1), ArrowRight: (node) => beside(node, 1),
    Home: () => nodes[0], End: () => winner,
  };
  picture.addEventListener("keydown", (event) => {
    const node = event.target.closest(".node");
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in keys) {
      const next = keys[event.key](node);
      if (next) focus(next);
    } else if (event.key === "Enter" || event.key === " ") choose(node);
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") fit(0);
    else return;
    event.preventDefault();
  });
  tools.addEventListener("click", (event) => {
    const act = event.target.dataset.act;
    if (act === "in") zoom(1.25);
    else if (act === "out") zoom(0.8);
    else if (act === "all") fit(0);
  });
  let grip = null;
  picture.addEventListener("pointerdown", (event) => {
    grip = { x: event.clientX, y: event.clientY, far: false };
  });
  addEventListener("pointermove", (event) => {
    if (!grip) return;
    const x = event.clientX - grip.x, y = event.clientY - grip.y;
    if (!grip.far && Math.hypot(x, y) < 4) return;
    view.x += x;
    view.y += y;
    grip = { x: event.clientX, y: event.clientY, far: true };
    draw();
  });
  addEventListener("pointercancel", () => { grip = null; });
  addEventListener("pointerup", (event) => {
    if (grip && !grip.far) {
      const node = event.target.closest && event.target.closest(".node");
      if (node) { focus(node); choose(node); }
    }
    grip = null;
  });
  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // the page keeps its own scrolling
    event.preventDefault();
    const box = picture.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });

  winner.setAttribute("tabindex", "0");
  choose(winner);
  fitting();
  fit(0.85);
  addEventListener("resize", () => { fitting(); fit(0.85); });
  stage.closest("details").addEventListener("toggle", () => { fitting(); fit(0.85); });
  addEventListener("beforeprint", () => {
    stage.classList.remove("live");
    stage.style.height = "auto";
    picture.setAttribute("viewBox", `0 0 ${full.width} ${full.height}`);
    moved.removeAttribute("transform");
  });
  addEventListener("afterprint", () => {
    picture.removeAttribute("viewBox");
    stage.classList.add("live");
    fitting();
    fit(0.85);
  });
})();
