/* Renews the part of a page that says where from, while it is looked at; draws charts from the tables behind them. */
"use strict";
{
    const HEIGHT = 200; // pixels of a chart
    const DASHES = { // not everybody tells the colours apart
        failed: [6, 4], p95: [8, 4], p99: [2, 4], "line-4": [8, 4], "line-5": [8, 4], "line-6": [8, 4], "line-0": [2, 4],
    };
    const LONGEST_SILENCE = 30000; // milliseconds until an answer is given up
    const SHARE = 10; // a site that takes a second to answer is asked each ten at most

    const language = document.documentElement.lang || undefined;
    let rootId = ""; // the id of the part that is renewed
    const root = () => document.getElementById(rootId);

    // Units

    const decimal = new Intl.NumberFormat(language, {maximumSignificantDigits: 4});
    const whole = new Intl.NumberFormat(language);

    const duration = function(seconds) {
        if (seconds === 0) {
            return "0";
        }
        if (seconds < 1) {
            return `${decimal.format(seconds * 1000)} ms`;
        }
        if (seconds < 60) {
            return `${decimal.format(seconds)} s`;
        }
        return seconds < 3600 ? `${decimal.format(seconds / 60)} min` : `${decimal.format(seconds / 3600)} h`;
    };

    const round = (least, most) => {
        const found = [];
        for (let power = least; power <= most; power++) {
            [1, 2, 5].forEach(digit => found.push(Number(`${digit}e${power}`)));
        }
        return found;
    };

    const UNITS = {
        rate: {text: value => `${decimal.format(value)}/s`, steps: round(-6, 6), least: 0.01},
        seconds: {
            text: duration,
            steps: [...round(-4, 0), 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 36000, 86400, 172800],
            least: 0.001,
        },
        jobs: {text: value => whole.format(value), steps: round(0, 9), least: 1},
    };

    const zoned = function(options) {
        const zone = root().dataset.djtasksZone;
        try {
            return new Intl.DateTimeFormat(language, {...options, timeZone: zone});
        } catch {
            return new Intl.DateTimeFormat(language, options); // a zone that browsers do not know
        }
    };

    // Charts

    const plots = new Map(); // id of a figure → {plot, shape}

    const colour = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

    const read = function(figure) {
        const table = figure.querySelector("details table"); // the legend of a plot is a table, too
        const heads = [...table.querySelectorAll("thead [data-djtasks-colour]")];
        const rows = [...table.querySelectorAll("tbody tr")];
        const cells = rows.map(row => [...row.querySelectorAll("td")]);
        const value = cell => cell.firstElementChild ? Number(cell.firstElementChild.value) : null;
        const values = heads.map((_, at) => cells.map(row => value(row[at])));
        return {
            newest: cells.findLastIndex((_, at) => values.some(line => line[at] !== null)),
            unit: UNITS[figure.dataset.djtasksUnit],
            lines: heads.map(head => ({name: head.textContent, look: head.dataset.djtasksColour})),
            times: rows.map(row => Date.parse(row.querySelector("time").dateTime) / 1000),
            values,
            texts: heads.map((_, at) => cells.map(row => row[at].textContent)),
        };
    };

    const styleOf = dash => dash ? (dash[0] > 4 ? "dashed" : "dotted") : "solid"; // in the legend

    const isLong = times => times.at(-1) - times[0] > 86400;

    const timesOnAxis = function(times) {
        const format = isLong(times)
            ? zoned({weekday: "short", day: "numeric"})
            : zoned({hour: "2-digit", minute: "2-digit", hourCycle: "h23"});
        return (_plot, splits) => splits.map(each => format.format(new Date(each * 1000)));
    };

    const options = function(figure, data, state) {
        const grid = {stroke: colour(figure, "--hairline-color"), width: 1};
        const axis = {stroke: colour(figure, "--body-quiet-color"), grid, ticks: grid, font: "11px system-ui, sans-serif"};
        const times = zoned({hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(isLong(data.times) && {weekday: "short"})});
        const timeAt = index => times.format(new Date(state.data.times[index] * 1000));
        const zone = root().dataset.djtasksZone;
        const lines = data.lines.map((line, at) => ({
            label: line.name,
            stroke: colour(figure, `--djtasks-line-${line.look}`),
            width: 2,
            dash: DASHES[line.look],
            points: {size: 6},
            // The table has the text; while nothing is pointed at, that of the newest point.
            value: (_plot, _value, _series, index) => state.data.texts[at][index ?? state.data.newest],
        }));
        return {
            width: figure.clientWidth,
            height: HEIGHT,
            tzDate: stamp => {
                try {
                    return uPlot.tzDate(new Date(stamp * 1000), zone);
                } catch {
                    return new Date(stamp * 1000);
                }
            },
            legend: {markers: {dash: (_plot, at) => styleOf(DASHES[data.lines[at - 1]?.look])}},
            cursor: {y: false, drag: {x: false, y: false}},
            scales: {
                x: {range: (_plot, first, last) => [first, last]},
                y: {range: (_plot, _least, most) => [0, Math.max(1.1 * (most ?? 0), data.unit.least)]},
            },
            axes: [
                {...axis, size: 34, space: 64, values: timesOnAxis(data.times)},
                {...axis, size: 64, space: 32, incrs: data.unit.steps, values: (_plot, splits) => splits.map(data.unit.text)},
            ],
            series: [
                {label: figure.querySelector("details th").textContent, value: (_plot, _v, _s, index) => timeAt(index ?? state.data.newest)},
                ...lines,
            ],
        };
    };

    const draw = function(figure) {
        const place = figure.querySelector("[data-djtasks-plot]");
        const known = plots.get(figure.id);
        if (!place) {
            plots.delete(figure.id);
            return;
        }
        const data = read(figure);
        const shape = JSON.stringify([data.lines, data.times.length, data.times.at(-1) - data.times[0]]);
        if (known && known.shape === shape && place.contains(known.plot.root)) {
            known.data = data;
            known.plot.setData([data.times, ...data.values]);
            return;
        }
        known?.plot.destroy();
        const state = {data, shape};
        state.plot = new uPlot(options(figure, data, state), [data.times, ...data.values], place);
        plots.set(figure.id, state);
        if (!place.dataset.djtasksPlot) {
            place.dataset.djtasksPlot = "drawn";
            sizes.observe(place);
        }
    };

    const sizes = new ResizeObserver(changes => changes.forEach(change => {
        const known = plots.get(change.target.closest("figure")?.id);
        const width = Math.floor(change.contentRect.width);
        if (known && width && known.plot.width !== width) {
            known.plot.setSize({width, height: HEIGHT});
        }
    }));

    const drawAll = () => root().querySelectorAll(".djtasks-chart").forEach(draw);

    const drawAnew = function() {
        plots.forEach(known => known.plot.destroy());
        plots.clear();
        drawAll();
    };

    // What differs is changed, and nothing else: what has the focus keeps it, what was opened or scrolled stays so.

    const key = node => node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.djtasksKey || "" : "";
    const isAlike = (one, other) => one.nodeName === other.nodeName && key(one) === key(other);

    const renewAttributes = function(element, fresh) {
        for (const {name} of [...element.attributes]) {
            if (!fresh.hasAttribute(name) && name !== "open") {
                element.removeAttribute(name);
            }
        }
        for (const {name, value} of fresh.attributes) {
            if (element.getAttribute(name) !== value && name !== "open") {
                element.setAttribute(name, value);
            }
        }
    };

    // What is moved loses the focus, so what is to go goes first, and nothing has to be moved past it.

    const removed = function(node) {
        const next = node.nextSibling;
        node.remove();
        return next;
    };

    const removeGone = function(element, fresh) {
        for (const child of [...element.children]) {
            if (key(child) && ![...fresh.children].some(each => isAlike(each, child))) {
                child.remove();
            }
        }
    };

    const renew = function(element, fresh) {
        if (fresh.hasAttribute("data-djtasks-kept") || element.hasAttribute("data-djtasks-plot")) {
            return;
        }
        renewAttributes(element, fresh);
        removeGone(element, fresh);
        let next = element.firstChild;
        for (const child of [...fresh.childNodes]) {
            const keyed = key(child) && [...element.children].find(each => isAlike(each, child));
            while (keyed && next && next !== keyed && !key(next)) {
                next = removed(next);
            }
            const same = keyed || (next && isAlike(next, child) ? next : null);
            if (!same) {
                element.insertBefore(document.importNode(child, true), next);
                continue;
            }
            if (same === next) {
                next = next.nextSibling;
            } else {
                element.insertBefore(same, next);
            }
            if (same.nodeType === Node.ELEMENT_NODE) {
                renew(same, child);
            } else if (same.nodeValue !== child.nodeValue) {
                same.nodeValue = child.nodeValue;
            }
        }
        while (next) {
            next = removed(next);
        }
    };

    // Polling

    let timer = null;
    let failures = 0;
    let asking = null;
    let chartsAt = 0;

    const tell = function(word) {
        const line = document.getElementById("djtasks-trouble");
        line.textContent = word ? line.dataset[word] : "";
        line.hidden = !word;
    };

    const ask = async function(withCharts, signal) {
        const leavesOut = !withCharts && root().dataset.djtasksChartsEvery;
        const address = root().dataset.djtasksFragment + (leavesOut ? "&charts=0" : "");
        try {
            const answer = await fetch(address, {redirect: "manual", signal});
            if (answer.type === "opaqueredirect" || answer.status === 403) {
                return {trouble: "djtasksRefused"};
            }
            const text = answer.ok ? await answer.text() : "";
            const fresh = new DOMParser().parseFromString(text, "text/html").getElementById(rootId);
            return fresh ? {trouble: "", fresh} : {trouble: "djtasksSilent"};
        } catch {
            return {trouble: "djtasksSilent"};
        }
    };

    const turn = async function() {
        const began = performance.now();
        const withCharts = began - chartsAt >= 1000 * Number(root().dataset.djtasksChartsEvery) - 500;
        const mine = asking = new AbortController();
        const giveUp = window.setTimeout(() => mine.abort(), LONGEST_SILENCE);
        const {trouble, fresh} = await ask(withCharts, mine.signal);
        window.clearTimeout(giveUp);
        if (document.hidden || mine !== asking) {
            return;
        }
        tell(trouble);
        failures = trouble ? failures + 1 : 0;
        const pause = 1000 * Number(root().dataset.djtasksRefresh) * 2 ** Math.min(failures, 4);
        plan(Math.max(pause, SHARE * (performance.now() - began)));
        if (fresh) {
            renew(root(), fresh);
        }
        if (!root().dataset.djtasksFragment) { // what it is about will not change any more
            window.clearTimeout(timer);
            document.removeEventListener("visibilitychange", lookedAt);
        }
        if (fresh && withCharts) {
            chartsAt = performance.now();
            drawAll();
        }
    };

    const plan = function(pause) {
        window.clearTimeout(timer);
        timer = window.setTimeout(turn, pause);
    };

    const lookedAt = function() {
        window.clearTimeout(timer);
        asking?.abort();
        asking = null;
        if (!document.hidden) {
            plan(0);
        }
    };

    document.addEventListener("DOMContentLoaded", () => {
        rootId = document.querySelector("[data-djtasks-fragment]")?.id;
        if (!rootId) {
            return;
        }
        drawAll();
        chartsAt = performance.now();
        new MutationObserver(drawAnew).observe(document.documentElement, {attributeFilter: ["data-theme"]});
        window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAnew);
        document.addEventListener("visibilitychange", lookedAt);
        plan(document.hidden ? 2 ** 30 : 1000 * Number(root().dataset.djtasksRefresh));
    });
}
