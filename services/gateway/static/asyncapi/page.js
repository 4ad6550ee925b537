"use strict";

async function show() {
  const place = document.getElementById("page");
  const address = document.body.dataset.document;
  try {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${address} answers ${answer.status}`);
    const sidebar = { showOperations: "byOperationsTags" };
    AsyncApiStandalone.render({ schema: await answer.text(), config: { show: { sidebar: true }, sidebar } }, place);
  } catch (error) {
    place.innerHTML = '<p class="waiting"></p>';
    place.firstChild.textContent = `The messages cannot be shown: ${error.message}. Load the page again.`;
  }
}

show();
