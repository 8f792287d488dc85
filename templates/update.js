
  // Changes only what differs: scroll positions, focus and selected text stay. Elements with an id are found again by it.
  function update(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType === Node.TEXT_NODE) {
      const selection = getSelection();
      const isSelected = !selection.isCollapsed && selection.containsNode(old, true);
      if (!isSelected) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const wanted = new Set([...fresh.children].map((child) => child.id).filter(Boolean));
    for (const child of [...old.children]) if (child.id && !wanted.has(child.id)) child.remove();
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const known = child.id ? [...old.children].find((other) => other.id === child.id) : at && !at.id ? at : null;
      if (!known) { old.insertBefore(child, at); continue; }
      if (known === at) at = at.nextSibling; else old.insertBefore(known, at);
      update(known, child);
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }
  const pause = document.getElementById("pause"), lost = document.getElementById("lost");
  let isPaused = false;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "go on with updates" : "pause updates";
  });
  async function refresh() {
    if (!isPaused && !document.hidden) {
      try {
        const options = { cache: "no-store", signal: AbortSignal.timeout(3000) };
        const response = await fetch(location.pathname + location.search, options);
        if (!response.ok) throw new Error(response.status);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        for (const part of document.querySelectorAll("[data-updates]")) {
          const fresh = page.getElementById(part.id);
          if (fresh) update(part, fresh);
        }
        document.body.classList.remove("stale");
        if (lost.textContent) lost.textContent = "";
      } catch {
        document.body.classList.add("stale");
        if (!lost.textContent) lost.textContent = "no answer from pgvane: this page is out of date";
      }
    }
    setTimeout(refresh, 1000);
  }
  setTimeout(refresh, 1000);
