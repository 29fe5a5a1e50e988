/* The network: the C runner as WebAssembly, its programs as bytes in its memory. */

const PAGE_BYTES = 65536;
const STATUS_OK = 0;

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const product = (sizes) => sizes.reduce((all, size) => all * size, 1);

class Runner {
  /* With vector instructions where the browser has them. */
  static async open(network) {
    if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, or it is switched off.");
    const simd = fromBase64(network.runners.simd);
    const code = WebAssembly.validate(simd) ? simd : fromBase64(network.runners.plain);
    const { instance } = await WebAssembly.instantiate(code);
    const runner = new Runner();
    Object.assign(runner, { base: network.base, image: fromBase64(network.image), simd: code === simd });
    runner.exports = instance.exports;
    if (runner.exports.__heap_base.value > runner.base) throw new Error("The runner takes more memory than the page knows.");
    runner.reach(runner.base + runner.image.length);
    new Uint8Array(runner.exports.memory.buffer).set(runner.image, runner.base);
    return runner;
  }

  /* Have memory up to an address. */
  reach(end) {
    const { memory } = this.exports, missing = Math.ceil((end - memory.buffer.byteLength) / PAGE_BYTES);
    if (missing > 0) memory.grow(missing);
  }

  check(status) {
    if (status !== STATUS_OK) throw new Error(`The network cannot be run (status ${status}).`);
  }

  /* The output of a program for an input of float32, (channels, height, width). What does not depend on the input is
   * made once, and again where another program ran meanwhile. */
  run(program, input) {
    const aligned = (address) => Math.ceil(address / 16) * 16;
    const { memory } = this.exports, outputs = product(program.output);
    const prepared = aligned(this.base + this.image.length), at = aligned(prepared + 4 * program.prepared);
    const out = aligned(at + 4 * input.length), arena = aligned(out + 4 * outputs);
    this.reach(arena + 4 * program.arena);
    if (this.ready !== program) {
      this.check(this.exports.tailcut_prepare(program.model, prepared, 4 * program.prepared, arena));
      this.ready = program;
    }
    new Float32Array(memory.buffer, at, input.length).set(input);
    this.check(this.exports.tailcut_run_prepared(program.model, prepared, at, out, arena));
    return new Float32Array(memory.buffer, out, outputs).slice();
  }
}
