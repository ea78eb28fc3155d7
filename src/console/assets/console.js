// Times in the reader's zone, and boxes that check all others. Every page works without this script.
"use strict";

const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
for (const element of document.querySelectorAll("time[datetime]")) {
  const time = new Date(element.dateTime);
  if (!Number.isNaN(time.getTime())) {
    element.title = element.textContent;
    element.textContent = zone.format(time);
  }
}

for (const box of document.querySelectorAll("input[data-check]")) {
  const boxes = box.form.querySelectorAll(`input[type=checkbox][name="${box.dataset.check}"]`);
  box.hidden = false;
  box.addEventListener("change", () => boxes.forEach((other) => { other.checked = box.checked; }));
}
