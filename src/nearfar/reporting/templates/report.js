(() => {
  "use strict";
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const listeners = {};

  const choose = (group, slug) => {
    all(`[data-tabs="${group}"] button`).forEach((button) =>
      button.setAttribute("aria-selected", String(button.dataset.slug === slug)));
    all(`.panel[data-group="${group}"]`).forEach((panel) => { panel.hidden = panel.dataset.slug !== slug; });
    if (listeners[group]) listeners[group](slug);
  };
  all("[data-tabs]").forEach((bar) => {
    const buttons = Array.from(bar.querySelectorAll("button"));
    buttons.forEach((button, place) => {
      button.addEventListener("click", () => choose(bar.dataset.tabs, button.dataset.slug));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = buttons[(place + step + buttons.length) % buttons.length];
        next.focus();
        next.click();
      });
    });
    choose(bar.dataset.tabs, buttons[0].dataset.slug);
  });

  const copy = document.getElementById("copy");
  if (copy) copy.addEventListener("click", async () => {
    const code = document.querySelector(".commands code");
    try {
      await navigator.clipboard.writeText(code.textContent.trim());
      copy.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "selected";
    }
    setTimeout(() => { copy.textContent = "copy"; }, 1500);
  });

  const source = document.getElementById("payload");
  if (!source || !window.Plotly) return;
  const { maps, pool, curves } = JSON.parse(source.textContent);
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 760px)");
  const hues = ["#0d8a78", "#d4532a", "#4c6fd1", "#c79a00", "#9c4fb0", "#5a9e2f", "#d6578f", "#2f9fc4", "#8a6142"];
  const still = { displayModeBar: false, responsive: true };
  const base = () => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink("soft") },
    hoverlabel: { bgcolor: ink("card"), bordercolor: ink("line"), font: { color: ink("ink") } },
  });

  const drawCurves = () => all(".curve").forEach((place) => {
    const line = curves[Number(place.dataset.number)];
    const axis = { gridcolor: ink("line"), zeroline: false, linecolor: ink("line"), fixedrange: true, nticks: 5 };
    Plotly.react(place, line.seeds.map((seed, number) => ({
      x: seed.x, y: seed.y, mode: seed.x.length > 1 ? "lines" : "markers", name: `seed ${seed.seed}`,
      line: { color: ink("near"), width: 1.75 }, marker: { color: ink("near") }, opacity: 1 - 0.28 * Math.min(number, 2),
      hovertemplate: "step %{x}<br>loss %{y:.3f}<extra>%{fullData.name}</extra>",
    })), { ...base(), margin: { l: 44, r: 14, t: 8, b: 30 }, xaxis: { ...axis, showgrid: false }, yaxis: axis }, still);
  });

  const plot = document.getElementById("map-plot");
  const tip = document.getElementById("map-tip");
  const toggle = document.getElementById("as-images");
  let current = maps && Object.keys(maps)[0];
  let images = true;

  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values);
    const pad = 0.07 * (high - low || 1);
    return [low - pad, high + pad];
  };

  const traces = (map) => {
    const groups = map.shown.length ? [...map.shown, null] : [null];
    return groups.map((label, number) => {
      const rows = map.x.map((_, row) => row).filter((row) =>
        label === null ? !map.shown.includes(map.label[row]) : map.label[row] === label);
      return {
        x: rows.map((row) => map.x[row]), y: rows.map((row) => map.y[row]), customdata: rows, type: "scatter",
        mode: "markers", hoverinfo: "none", name: label === null ? (map.shown.length ? "other" : "items") : label,
        marker: {
          size: pictured(map) ? 4 : map.x.length > 600 ? 6 : 8, line: { width: pictured(map) ? 0 : 0.5, color: ink("card") },
          color: label === null ? (map.shown.length ? ink("pale") : ink("near")) : hues[number],
          opacity: pictured(map) ? 0.55 : 0.85,
        },
      };
    }).filter((trace) => trace.x.length);
  };

  const pictured = (map) => images && Boolean(map.thumb);

  // Only images that do not cover one another are drawn; the others stay dots.
  const drawnImages = (map) => {
    if (!pictured(map)) return [];
    const [left, right] = range(map.x), [low, high] = range(map.y);
    const side = narrow.matches ? 22 : 28;
    const wide = side * (right - left) / plot.clientWidth, tall = side * (high - low) / plot.clientHeight;
    const taken = [];
    map.x.forEach((x, row) => {
      const free = taken.every((other) => Math.abs(map.x[other] - x) > 0.86 * wide
        || Math.abs(map.y[other] - map.y[row]) > 0.86 * tall);
      if (free) taken.push(row);
    });
    return taken.map((row) => ({
      source: pool[map.thumb[row]], xref: "x", yref: "y", x: map.x[row], y: map.y[row],
      sizex: wide, sizey: tall, xanchor: "center", yanchor: "middle", layer: "above",
    }));
  };

  const drawMap = () => {
    const map = maps[current];
    const axis = { visible: false, zeroline: false, fixedrange: narrow.matches };
    const layout = {
      ...base(), margin: { l: 8, r: 8, t: 12, b: 8 }, dragmode: narrow.matches ? false : "pan", hovermode: "closest",
      showlegend: map.shown.length > 0 && !pictured(map), images: drawnImages(map), uirevision: current,
      legend: { orientation: "h", y: -0.02, yanchor: "top", font: { size: 12, color: ink("soft") }, itemsizing: "constant" },
      xaxis: { ...axis, range: range(map.x) }, yaxis: { ...axis, range: range(map.y) },
    };
    tip.hidden = true;
    toggle.hidden = !map.thumb;
    plot.parentElement.classList.toggle("pictured", pictured(map));
    Plotly.react(plot, traces(map), layout, { ...still, scrollZoom: !narrow.matches });
  };

  const show = (event) => {
    const map = maps[current];
    const point = event.points[0];
    const row = point.customdata;
    const frame = plot.getBoundingClientRect();
    const x = point.xaxis.l2p(point.x) + point.xaxis._offset;
    const y = point.yaxis.l2p(point.y) + point.yaxis._offset;
    tip.replaceChildren();
    if (map.thumb) {
      const image = new Image();
      image.src = pool[map.thumb[row]];
      image.alt = "";
      tip.append(image);
    }
    const name = document.createElement("b");
    name.textContent = map.key[row];
    tip.append(name);
    const words = [map.text ? map.text[row] : "", map.label[row]].filter(Boolean).join(" · ");
    if (words) tip.append(words);
    tip.hidden = false;
    const left = x + 16 + tip.offsetWidth > frame.width ? x - tip.offsetWidth - 14 : x + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, Math.min(y - 20, frame.height - tip.offsetHeight - 4))}px`;
  };

  const draw = () => { if (curves.length) drawCurves(); if (plot) drawMap(); };
  draw();
  if (plot) {
    plot.on("plotly_hover", show);
    plot.on("plotly_click", show);
    plot.on("plotly_unhover", () => { tip.hidden = true; });
    toggle.addEventListener("click", () => {
      images = !images;
      toggle.textContent = images ? "show kinds" : "show images";
      drawMap();
    });
    listeners.map = (slug) => { current = slug; drawMap(); };
  }
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
})();
