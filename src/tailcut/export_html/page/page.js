/* What a reader sees and does. */

const NUM_BEST = 5, MADE = 16, LONGEST_VIEW = 1600;
const TINT = [255, 64, 129];

const network = JSON.parse(document.getElementById("network").textContent);
const part = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const seconds = (value) => `${value.toFixed(value < 0.1 ? 4 : 2)} s`;
const opened = Runner.open(network);
let last = null, turn = 0;

const show = (id, isShown = true) => { part(id).hidden = !isShown; };

function tell(text, error = "") {
  part("status").textContent = text;
  part("error").textContent = error;
  show("error", error !== "");
  if (error) show("result", false);
}

/* The program whose input has the form that is most similar to the image's. */
function programFor({ width, height }) {
  const distance = ({ input }) => Math.abs(Math.log(input[1] * width / (input[2] * height)));
  return network.programs.reduce((best, program) => distance(program) < distance(best) ? program : best);
}

/* The browser shows what is being done before it is done. */
const painted = () => new Promise((resolve) => { setTimeout(resolve, 30); });

async function answer(program, input) {
  const runner = await opened, start = performance.now();
  const outputs = runner.run(program, input);
  return { outputs, seconds: (performance.now() - start) / 1000, simd: runner.simd, program, input };
}

/* Runs the network on an image file and shows the result; also for scripts: `await tailcut.run(blob)`. */
async function run(blob) {
  const own = ++turn;
  tell("Reading the image ...");
  try {
    const image = await readImage(blob), program = programFor(image);
    tell("Running the network ...");
    await painted();
    const found = await answer(program, toInput(image, program.input, part("invert").checked, network.shorter));
    if (own !== turn) return null; // another image came meanwhile
    last = { ...found, image, blob };
    network.kind === "mask" ? showMask() : showClasses();
    return last;
  } catch (error) {
    if (own === turn) tell("", error.message);
    return null;
  }
}

async function runDrawing(input) {
  const own = ++turn;
  if (input === null) {
    tell("Draw a digit, or choose an image.");
    show("result", false);
    return;
  }
  try {
    const found = await answer(network.programs[0], input);
    if (own !== turn) return;
    last = found;
    showClasses();
  } catch (error) {
    tell("", error.message);
  }
}

function showClasses() {
  last.probabilities = softmax(last.outputs);
  const order = last.probabilities.map((_, number) => number).sort((one, two) => last.probabilities[two] - last.probabilities[one]);
  const body = part("classes").tBodies[0];
  body.replaceChildren(...order.slice(0, NUM_BEST).map((number) => {
    const row = document.createElement("tr"), bar = document.createElement("span");
    bar.className = "bar";
    bar.style.width = `${70 * last.probabilities[number]}%`;
    row.insertCell().textContent = network.classes[number];
    row.insertCell().append(bar, percent(last.probabilities[number]));
    return row;
  }));
  tell(`${network.classes[order[0]]}: ${percent(last.probabilities[order[0]])}, in ${seconds(last.seconds)}`);
  show("classes");
  show("result");
}

/* The mask of the last image, of 0 and 1, in the size of the image or another. */
function mask(height = last.image.height, width = last.image.width) {
  const { output } = last.program;
  return toMask(foregroundLogits(last.outputs, output), output.slice(1), height, width);
}

function showMask() {
  const { image } = last, shrink = Math.min(1, LONGEST_VIEW / Math.max(image.width, image.height));
  const width = Math.max(Math.round(image.width * shrink), 1), height = Math.max(Math.round(image.height * shrink), 1);
  const found = mask(height, width), ratio = found.reduce((all, value) => all + value, 0) / found.length;
  const photo = document.createElement("canvas");
  Object.assign(photo, { width: image.width, height: image.height });
  photo.getContext("2d").putImageData(image, 0, 0);
  const canvas = part("view"), context = canvas.getContext("2d", { willReadFrequently: true });
  Object.assign(canvas, { width, height });
  context.drawImage(photo, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const view = document.querySelector("input[name=view]:checked").value;
  for (let n = 0; n < found.length && view !== "photo"; n++) {
    for (let channel = 0; channel < 3; channel++) {
      const at = 4 * n + channel;
      if (view === "mask") pixels.data[at] = 255 * found[n];
      else if (found[n]) pixels.data[at] = (pixels.data[at] + TINT[channel]) / 2;
    }
  }
  context.putImageData(pixels, 0, 0);
  const text = `Foreground: ${percent(ratio)} of the image`;
  canvas.setAttribute("aria-label", `${{ both: "Mask over the photo", mask: "Mask", photo: "Photo" }[view]}. ${text}.`);
  tell(`${text}, in ${seconds(last.seconds)}`);
  ["views", "view", "result"].forEach((id) => show(id));
}

/* The mask as a PNG in the size of the image, foreground white. */
function saveMask() {
  const { width, height } = last.image, canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  mask().forEach((value, n) => data.fill(255 * value, 4 * n, 4 * n + 3));
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${(last.blob.name || "image").replace(/\.[^.]*$/, "")}-mask.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

/* A normal random number, by Box and Muller. */
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

async function makeImages() {
  tell("Making images ...");
  await painted();
  try {
    const [program] = network.programs, [channels, height, width] = program.output, columns = Math.sqrt(MADE);
    const canvas = part("view"), context = canvas.getContext("2d");
    Object.assign(canvas, { width: columns * width, height: MADE / columns * height });
    let spent = 0;
    for (let n = 0; n < MADE; n++) {
      last = await answer(program, Float32Array.from({ length: product(program.input) }, normal));
      spent += last.seconds;
      const pixels = context.createImageData(width, height), size = width * height;
      for (let at = 0; at < size; at++) {
        for (let channel = 0; channel < 3; channel++) {
          pixels.data[4 * at + channel] = 255 * last.outputs[Math.min(channel, channels - 1) * size + at];
        }
        pixels.data[4 * at + 3] = 255;
      }
      context.putImageData(pixels, n % columns * width, Math.floor(n / columns) * height);
    }
    canvas.className = "small";
    canvas.setAttribute("aria-label", `${MADE} images made by the network`);
    tell(`${MADE} images in ${seconds(spent)}`);
    show("view");
    show("result");
  } catch (error) {
    tell("", error.message);
  }
}

function takeFiles(files) {
  if (files.length === 1) run(files[0]);
  else if (files.length > 1) tell("", `${files.length} files were dropped; this page takes one image at a time.`);
}

function listen() {
  const drop = part("drop");
  part("file").addEventListener("click", (event) => { event.target.value = ""; }); // the same file may be chosen again
  part("file").addEventListener("change", (event) => { takeFiles([...event.target.files]); });
  part("invert").addEventListener("change", () => { if (last && last.blob) run(last.blob); });
  document.querySelectorAll("input[name=view]").forEach((radio) => radio.addEventListener("change", showMask));
  part("save").addEventListener("click", saveMask);
  // The whole page takes what is dropped: beside it, a browser would leave the page for the file.
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    takeFiles([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => { takeFiles([...event.clipboardData.files]); });
}

async function start() {
  try {
    await opened;
  } catch (error) {
    tell("", `The network cannot be started: ${error.message}`);
    return;
  }
  if (network.kind === "images") {
    part("make").addEventListener("click", makeImages);
    show("making");
    await makeImages();
  } else {
    listen();
    show("inverting", network.programs[0].input[0] === 1);
    show("drawing", network.draws);
    tell("Choose an image.");
    if (network.draws) {
      const pad = new Pad(part("pad"), part("pen"), runDrawing);
      part("clear").addEventListener("click", () => pad.clear());
    }
    show("inputs");
  }
}

globalThis.tailcut = { run, mask, get last() { return last; } };
globalThis.tailcut.ready = start();
