// The panel in a notebook: one picture, one question, an answer by a key or a button.
// The next question is here before the present one is answered; what was answered is told to the kernel, which keeps it.
const NAMES = { y: "yes", n: "no", s: "skip", u: "unclear", z: "undo", m: "show the model's answer" };
const LOST = "The kernel does not answer: the last answer may not be kept. Restart it, and run the notebook again.";
const PATIENCE = 10000; // milliseconds

function element(kind, parent, name, text = "") {
  const made = document.createElement(kind);
  made.className = name;
  made.textContent = text; // never as HTML: names are data
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const root = element("div", el, "mlkit-review");
  root.tabIndex = 0;
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // or z and y would be commands of the notebook
  const progress = element("div", root, "state");
  const question = element("div", root, "question");
  const picture = element("img", root, "picture");
  const file = element("div", root, "file");
  const similar = element("div", root, "similar");
  const buttons = element("div", root, "buttons");
  const said = element("div", root, "said");

  let known = {}; // question -> what is shown of it
  let place = -1; // of the question that is open
  let count = 0;
  let since = 0; // when it was shown
  let sent = 0; // messages to the kernel, which says which it answers
  let waiting;

  function address(view) {
    return URL.createObjectURL(new Blob([view], { type: "image/jpeg" }));
  }

  function tell(message) {
    model.send({ ...message, number: ++sent });
    clearTimeout(waiting);
    waiting = setTimeout(() => (said.textContent = LOST), PATIENCE);
  }

  function draw() {
    const open = known[place];
    similar.replaceChildren();
    if (!open) {
      question.textContent = place >= count ? "All questions of this queue are answered." : "…";
      picture.hidden = true;
      file.textContent = "";
      return;
    }
    question.textContent = open.question;
    picture.hidden = false;
    picture.src = open.picture;
    file.textContent = open.file;
    if (open.similar.length) element("div", similar, "label", "Similar pictures that are labelled:");
    for (const one of open.similar) {
      const box = element("figure", similar, "");
      element("img", box, "").src = one.picture;
      element("figcaption", box, "", one.label);
    }
    since = performance.now();
  }

  function press(key) {
    const open = known[place];
    if (key === "z") return tell({ do: "undo" });
    if (!open || !(key in NAMES)) return;
    if (key === "m") return (said.textContent = `The model's answer here: ${open.model}`);
    tell({ do: "answer", place, key, seconds: (performance.now() - since) / 1000 });
    said.textContent = `${open.question} You: ${NAMES[key]}. The labels: ${open.before}. The model: ${open.model}.`;
    place += 1; // what the kernel says next is the truth; this only saves the way there and back
    draw();
  }

  for (const key of Object.keys(NAMES)) {
    element("button", buttons, "", `${NAMES[key]} (${key})`).onclick = () => (press(key), root.focus());
  }
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase();
    if (key in NAMES) {
      press(key);
      event.preventDefault();
    }
  });
  model.on("msg:custom", (told, buffers) => {
    let next = 0;
    for (const one of told.questions) {
      one.picture = address(buffers[next++]);
      for (const other of one.similar) other.picture = address(buffers[next++]);
      known[one.place] = one;
    }
    for (const old of Object.keys(known).filter((old) => old < told.place - 1)) {
      for (const one of [known[old], ...known[old].similar]) URL.revokeObjectURL(one.picture);
      delete known[old];
    }
    progress.textContent = told.progress;
    count = told.count;
    if (told.number !== sent) return; // further answers are on their way
    clearTimeout(waiting);
    if (told.said) said.textContent = told.said;
    if (place !== told.place || picture.hidden) {
      place = told.place;
      draw();
    }
  });
  picture.onload = () => root.dataset.shown = place; // for whoever waits for it
  root.onclick = () => root.focus();
  tell({ do: "start" });
  root.focus();
}

export default { render };
