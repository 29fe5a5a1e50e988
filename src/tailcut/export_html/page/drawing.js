/* A digit that is drawn, as MNIST has its digits: 20 pixels long, its centre of mass in the middle of 28 x 28. */

const DIGIT = 28, LONGEST = 20;
const PEN = 20, STEP = 10;

class Pad {
  /* Calls `changed` with the digit's input after each stroke, with null when it is cleared. */
  constructor(canvas, told, changed) {
    Object.assign(this, { canvas, told, changed, isDown: false, place: [canvas.width / 2, canvas.height / 2] });
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.pointer = null;
    canvas.addEventListener("pointerdown", (event) => {
      this.pointer = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.place = this.placeOf(event);
      this.draw(this.place);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId === this.pointer) this.draw(this.placeOf(event));
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => {
        if (event.pointerId !== this.pointer) return;
        this.pointer = null;
        this.changed(this.input());
      });
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.clear();
  }

  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.changed(null);
  }

  placeOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.canvas.width / box.width, (event.clientY - box.top) * this.canvas.height / box.height];
  }

  draw(place) {
    const context = this.context;
    Object.assign(context, { strokeStyle: "#fff", lineWidth: PEN, lineCap: "round" });
    context.beginPath();
    context.moveTo(...this.place);
    context.lineTo(...place);
    context.stroke();
    this.place = place;
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (event.key === " ") {
      this.isDown = !this.isDown;
    } else if (way) {
      const limit = (value, most) => Math.min(Math.max(value, 0), most);
      const place = [limit(this.place[0] + STEP * way[0], this.canvas.width), limit(this.place[1] + STEP * way[1], this.canvas.height)];
      if (this.isDown) this.draw(place);
      this.place = place;
    } else {
      return;
    }
    event.preventDefault();
    const [x, y] = this.place.map((value) => Math.round(value / STEP));
    this.told.textContent = `Pen ${this.isDown ? "down" : "up"} at column ${x}, row ${y} of ${DIGIT}.`;
    if (this.isDown) this.changed(this.input());
  }

  /* (1, 28, 28) of 0 to 1; null if nothing is drawn. */
  input() {
    const { width, height } = this.canvas, { data } = this.context.getImageData(0, 0, width, height);
    let [left, top, right, bottom] = [width, height, -1, -1];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (data[4 * (y * width + x)] < 16) continue;
        [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
      }
    }
    if (right < 0) return null;
    const sides = [bottom - top + 1, right - left + 1];
    const [rows, columns] = sides.map((side) => Math.max(Math.round(side * LONGEST / Math.max(...sides)), 1));
    const ink = toInput(this.context.getImageData(left, top, sides[1], sides[0]), [1, rows, columns], false);
    let [mass, y, x] = [0, 0, 0];
    ink.forEach((value, n) => {
      mass += value;
      y += value * (Math.floor(n / columns) + 0.5);
      x += value * (n % columns + 0.5);
    });
    const begin = (centre, side) => Math.min(Math.max(Math.round(DIGIT / 2 - centre), 0), DIGIT - side);
    const first = begin(y / mass, rows) * DIGIT + begin(x / mass, columns);
    const input = new Float32Array(DIGIT * DIGIT);
    ink.forEach((value, n) => { input[first + Math.floor(n / columns) * DIGIT + n % columns] = value; });
    return input;
  }
}
