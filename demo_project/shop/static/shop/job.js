// Shows how far the job on this page is, and loads the page anew once it has ended.
"use strict";

const PAUSE = 300; // milliseconds between two questions
const PAUSE_IN_TROUBLE = 2000;

const job = document.getElementById("job");
const state = document.getElementById("job-state");
const tries = document.getElementById("job-tries");
const bar = document.getElementById("job-bar");
const count = document.getElementById("job-count");
const trouble = document.getElementById("job-trouble");

function show(standing) {
  if (state.textContent !== standing.state) {
    state.textContent = standing.state;
    state.dataset.state = standing.state;
  }
  tries.hidden = standing.retries === 0;
  tries.querySelector("b").textContent = standing.retries + 1;
  if (standing.total) {
    bar.max = standing.total;
    bar.value = standing.done;
    count.textContent = `${standing.done.toLocaleString("en")} of ${standing.total.toLocaleString("en")}`;
  }
}

async function ask() {
  const answer = await fetch(job.dataset.standing, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.json();
}

async function follow() {
  let pause = PAUSE;
  try {
    const standing = await ask();
    show(standing);
    trouble.hidden = true;
    if (standing.ready) {
      window.location.reload();
      return;
    }
  } catch {
    trouble.hidden = false;
    pause = PAUSE_IN_TROUBLE;
  }
  setTimeout(follow, pause);
}

if (job && job.dataset.standing) follow();
