// This script draws charts of usage. The numbers are in a table of the page, for readers without scripts and for
// screen readers. Each figure names the columns of the table that it draws.
"use strict";
(() => {
  // Numbers have the same form as on the page: narrow spaces between groups of three digits.
  const whole = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const compact = (n) => n < 1e4 ? whole(n) : n < 1e6 ? n / 1e3 + "\u202fk" : n < 1e9 ? n / 1e6 + "\u202fM" : n / 1e9 + "\u202fG";
  const hour = new Intl.DateTimeFormat(undefined, {hour: "numeric", minute: "2-digit"});
  const day = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short"});
  const moment = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short"});
  const height = 190;
  // An axis of counts has only whole numbers, since there is no half request.
  const steps = Array.from({length: 13}, (_, i) => [1, 2, 5].map((n) => n * 10 ** i)).flat();

  // number returns the value of a cell: a number, the Unix seconds of a time, or null for an empty cell.
  function number(cell) {
    const time = cell.querySelector("time");
    if (time) return Date.parse(time.dateTime) / 1000;
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" ? null : Number(text);
  }

  // read returns the columns of a table by their names.
  function read(table) {
    const rows = [...table.tBodies[0].rows];
    const columns = {};
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      columns[head.dataset.column] = {label: head.textContent.trim(), values: rows.map((r) => number(r.cells[i]))};
    });
    return columns;
  }

  // legend adds a list of the series with their colours and amounts, at the cursor or in total.
  function legend(figure, series) {
    const list = document.createElement("ul");
    list.className = "legend";
    for (const s of series) {
      const item = document.createElement("li");
      s.swatch = document.createElement("i");
      s.amount = document.createElement("b");
      item.append(s.swatch, s.label + " ", s.amount);
      list.append(item);
    }
    figure.append(list);
  }

  function draw(figure, columns) {
    const bars = figure.dataset.chart === "bars";
    const x = columns.from.values;
    const step = x.length > 1 ? x[1] - x[0] : 3600;
    const series = figure.dataset.columns.split(" ").filter((name) => columns[name])
      .map((name) => ({name, label: columns[name].label, values: columns[name].values}));
    if (!series.length || !x.length) return;

    // Bars are stacked: the sum of all series is drawn first, and the smaller sums are drawn over it.
    const data = [x], drawn = [];
    if (bars) {
      let below = x.map(() => 0);
      for (const s of series) {
        below = below.map((sum, i) => sum + (s.values[i] ?? 0));
        data.splice(1, 0, below);
        drawn.unshift(s);
      }
    } else {
      for (const s of series) {
        data.push(s.values);
        drawn.push(s);
      }
    }

    const unit = bars ? "" : "\u202fms";
    const amount = (n) => n == null ? "–" : (Number.isInteger(n) ? whole(n) : n < 10 ? n.toFixed(2) : whole(Math.round(n))) + unit;
    const caption = figure.querySelector("figcaption");
    const at = document.createElement("span");
    at.className = "sub";
    caption.append(" ", at);
    const plot = document.createElement("div");
    plot.className = "plot";
    plot.setAttribute("role", "img");
    const most = Math.max(0, ...data.slice(1).flat().filter((n) => n != null));
    plot.setAttribute("aria-label", `${caption.textContent.trim()}: at most ${amount(most)}. The table below has the numbers.`);
    figure.append(plot);
    legend(figure, series);
    figure.classList.add("drawn");

    function showAmounts(i) {
      at.textContent = i == null ? "" : moment.format(new Date(x[i] * 1000));
      for (const s of series) {
        s.amount.textContent = i != null ? amount(s.values[i]) : bars ? amount(s.values.reduce((sum, n) => sum + (n ?? 0), 0)) : "";
      }
    }

    let chart;
    function make() {
      const style = getComputedStyle(figure);
      const color = (name) => style.getPropertyValue(name).trim();
      const first = series[0].name === "allowed" || !bars ? 1 : series[0].name === "credits" ? 3 : 2;
      series.forEach((s, i) => {
        s.color = color(`--series-${(first - 1 + i) % 6 + 1}`);
        s.swatch.style.background = s.color;
      });
      const axis = {stroke: color("--muted"), font: `12px ${style.fontFamily}`, grid: {stroke: color("--line"), width: 1}, ticks: {show: false}};
      chart?.destroy();
      chart = new uPlot({
        width: plot.clientWidth, height,
        legend: {show: false},
        cursor: {y: false, drag: {x: false, y: false}, points: {show: !bars}},
        scales: {
          x: {range: () => [x[0] - step * 0.6, x[x.length - 1] + step * 0.6]},
          y: {range: (_, min, max) => [0, max > 0 ? max * 1.1 : 1]},
        },
        axes: [
          {...axis, size: 30, space: 64, grid: {show: false}, values: (_, list) => list.map((t) => (step < 86400 ? hour : day).format(new Date(t * 1000)))},
          {...axis, size: 52, space: 28, incrs: bars ? steps : undefined, values: (_, list) => list.map(compact)},
        ],
        series: [{}, ...drawn.map((s) => bars
          ? {fill: s.color, stroke: s.color, width: 0, points: {show: false}, paths: uPlot.paths.bars({size: [0.7, 28]})}
          : {stroke: s.color, width: 2, points: {show: true, size: 6, fill: s.color}})],
        hooks: {setCursor: [(u) => showAmounts(u.cursor.idx)]},
      }, data, plot);
      showAmounts(null);
    }
    make();
    new ResizeObserver(() => { if (plot.clientWidth !== chart.width) chart.setSize({width: plot.clientWidth, height}); }).observe(plot);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", make);
  }

  for (const charts of document.querySelectorAll("[data-charts]")) {
    const columns = read(document.getElementById(charts.dataset.charts));
    for (const figure of charts.querySelectorAll("figure[data-chart]")) draw(figure, columns);
  }
})();
