/* The form of a schedule: says what is typed, and when that would run. Without this script the fields stand alone. */
"use strict";
{
    const NAMES = [
        "task", "schedule", "timezone", "start_at_0", "start_at_1", "end_at_0", "end_at_1", "one_off", "max_runs",
    ];
    const PAUSE = 250; // milliseconds after the last key

    const typed = function(form) {
        const values = new URLSearchParams();
        NAMES.forEach((name) => {
            const field = form.elements[name];
            if (field && (field.type !== "checkbox" || field.checked)) {
                values.set(name, field.value);
            }
        });
        return values;
    };

    // Somebody may be quicker than this script, or the browser has kept what was typed before.
    const isUntouched = function(form) {
        return NAMES.every((name) => {
            const field = form.elements[name];
            return !field || (field.value === field.defaultValue && field.checked === field.defaultChecked);
        });
    };

    const show = function(box, html) {
        box.innerHTML = html.trim(); // the server has escaped what was typed
    };

    const prepare = function(box) {
        const form = box.closest("form");
        const address = new URL(box.dataset.djtasksPreview, window.location.href);
        // What is stored is told above the form, and what was refused stands at its field.
        const isStored = address.searchParams.has("row") && !document.querySelector(".errornote");
        const isRefused = box.closest("fieldset").querySelector(".errorlist") !== null;
        const isTold = isUntouched(form) && (isStored || isRefused || !form.elements.schedule.value);
        let last = isTold ? typed(form).toString() : "";
        let timer = 0;
        let request = null;

        const ask = async function(values) {
            if (request) {
                request.abort();
            }
            request = new AbortController();
            const url = new URL(address);
            values.forEach((value, name) => url.searchParams.set(name, value));
            try {
                const response = await fetch(url, {signal: request.signal});
                // A redirect leads to the login.
                show(box, response.ok && !response.redirected ? await response.text() : "");
            } catch (error) {
                if (error.name !== "AbortError") {
                    show(box, "");
                }
            }
        };

        const look = function() {
            const values = typed(form);
            if (values.toString() === last) {
                return;
            }
            last = values.toString();
            window.clearTimeout(timer);
            timer = window.setTimeout(() => ask(values), PAUSE);
        };

        // Django's calendar and clock fill their fields without an event of input, and then focus them.
        ["input", "change", "focusin"].forEach((name) => form.addEventListener(name, look));
        document.querySelectorAll("[data-djtasks-example]").forEach((example) => {
            const take = function() {
                form.elements.schedule.value = example.dataset.djtasksExample;
                look();
            };
            example.tabIndex = 0;
            example.setAttribute("role", "button");
            example.addEventListener("click", take);
            example.addEventListener("keydown", (event) => {
                if (event.key === "Enter" || event.key === " ") {
                    event.preventDefault();
                    take();
                }
            });
        });
        look();
    };

    document.addEventListener("DOMContentLoaded", () => {
        document.querySelectorAll("[data-djtasks-preview]").forEach((box) => {
            if (box.closest("form") && box.closest("form").elements.schedule) {
                prepare(box);
            }
        });
    });
}
