// Keys 1, 2 and 3 answer the first open question, or else the one that has the focus. Enter submits, as in any form. Without JavaScript the page works by Tab, the arrow keys and Enter.
"use strict";
const fieldsets = [...document.querySelectorAll("fieldset")];
for (const hint of document.querySelectorAll("kbd, #keys")) hint.hidden = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !["1", "2", "3"].includes(event.key)) return;
  const focused = document.activeElement.closest("fieldset");
  const open = fieldsets.find((each) => !each.querySelector("input:checked"));
  const target = open || focused || fieldsets[0];
  const radio = target.querySelectorAll("input")[Number(event.key) - 1];
  radio.checked = true;
  radio.focus();
  event.preventDefault();
});

const alert = document.getElementById("missing");
if (alert) (fieldsets.find((each) => !each.querySelector("input:checked")) || fieldsets[0]).querySelector("input").focus();

// A second click does not send the form twice.
document.querySelector("form").addEventListener("submit", (event) => {
  if (event.currentTarget.dataset.sent) event.preventDefault();
  event.currentTarget.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => delete document.querySelector("form").dataset.sent);
