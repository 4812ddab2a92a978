/* Buttons that copy a text; admin.css hides them where no script runs. */
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

    // Buttons come and go on pages that renew themselves, so that none is prepared.
    document.documentElement.classList.add("djtasks-scripted");
    document.addEventListener("click", event => {
        const button = event.target.closest("[data-djtasks-copies]");
        if (button) {
            const element = document.getElementById(button.dataset.djtasksCopies);
            copy(element).then(() => confirm(button), () => select(element));
        }
    });
}
