/* Buttons that copy a text; without this script they stay hidden. */
"use strict";
{
    const select = function(element) {
        const range = document.createRange();
        range.selectNodeContents(element);
        const selection = window.getSelection();
        selection.removeAllRanges();
        selection.addRange(range);
    };

    const copy = async function(element) {
        if (navigator.clipboard) {
            await navigator.clipboard.writeText(element.textContent);
            return;
        }
        // Pages that do not come by https have no clipboard.
        select(element);
        document.execCommand("copy");
    };

    const confirm = function(button) {
        const label = button.textContent;
        button.textContent = button.dataset.djtasksCopied;
        window.setTimeout(() => { button.textContent = label; }, 1500);
    };

    const prepare = function(button) {
        const element = document.getElementById(button.dataset.djtasksCopies);
        button.hidden = false;
        button.addEventListener("click", () => {
            copy(element).then(() => confirm(button), () => select(element));
        });
    };

    document.addEventListener("DOMContentLoaded", () => {
        document.querySelectorAll("[data-djtasks-copies]").forEach(prepare);
    });
}
