/* Images as inputs, and outputs as masks: the same numbers as `tailcut predict`, but for rounding. */

const MAX_PIXELS = 1 << 24;
const LUMA = [19595, 38470, 7471]; // of 65536, as Pillow has the weights of ITU-R BT.601

/* The pixels of an image file, upright and on white: {width, height, data} with four bytes each. */
async function readImage(blob) {
  const name = blob.name || "This";
  let bitmap;
  try {
    try {
      bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" });
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      bitmap = await createImageBitmap(blob); // a browser that does not know an option
    }
  } catch (error) {
    throw new Error(`${name} is not an image that this browser can read, or it is damaged. Choose a PNG or JPEG file.`);
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) {
    bitmap.close();
    throw new Error(`${name} has ${width} x ${height} pixels; this page takes at most ${MAX_PIXELS.toLocaleString("en")} in all.`);
  }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/* For the `count` middle places of an axis: the first of those that each is made of, and their weights. Bilinear with
   antialiasing. */
function averages(from, to, count) {
  const scale = from / to, reach = Math.max(scale, 1), places = [], begin = halfToEven(to - count);
  for (let place = begin; place < begin + count; place++) {
    const centre = scale * (place + 0.5);
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0), end = Math.min(Math.trunc(centre + reach + 0.5), from);
    const weights = [];
    for (let at = first; at < end; at++) weights.push(Math.max(1 - Math.abs((at - centre + 0.5) / reach), 0));
    const sum = weights.reduce((all, weight) => all + weight, 0);
    places.push({ first, weights: weights.map((weight) => weight / sum) });
  }
  return places;
}

/* Half of a whole number, rounded as Python does. */
function halfToEven(number) {
  const half = Math.floor(number / 2);
  return number % 2 ? half + half % 2 : half;
}

/* Height and width that an image is resized to: those of the input; or its shorter side is `shorter`, and the middle is
   what goes in. */
function resizedTo({ width, height }, toHeight, toWidth, shorter) {
  if (!shorter) return [toHeight, toWidth];
  const longer = Math.trunc(shorter * Math.max(width, height) / Math.min(width, height));
  return height <= width ? [shorter, longer] : [longer, shorter];
}

/* The image as float32 (channels, height, width) of 0 to 1, resized. */
function toInput(image, [channels, toHeight, toWidth], inverted, shorter = null) {
  const { width, height, data } = image, [wholeHeight, wholeWidth] = resizedTo(image, toHeight, toWidth, shorter);
  const columns = averages(width, wholeWidth, toWidth), rows = averages(height, wholeHeight, toHeight);
  const narrow = new Float32Array(height * toWidth), line = new Float32Array(width);
  const input = new Float32Array(channels * toHeight * toWidth);
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0, at = 4 * y * width; x < width; x++, at += 4) {
        const byte = channels > 1 ? data[at + channel]
          : (data[at] * LUMA[0] + data[at + 1] * LUMA[1] + data[at + 2] * LUMA[2] + 32768) >> 16;
        line[x] = byte / 255;
      }
      columns.forEach(({ first, weights }, x) => {
        let sum = 0;
        for (let n = 0; n < weights.length; n++) sum += weights[n] * line[first + n];
        narrow[y * toWidth + x] = sum;
      });
    }
    rows.forEach(({ first, weights }, y) => {
      const into = (channel * toHeight + y) * toWidth;
      for (let x = 0; x < toWidth; x++) {
        let sum = 0;
        for (let n = 0; n < weights.length; n++) sum += weights[n] * narrow[(first + n) * toWidth + x];
        input[into + x] = inverted ? 1 - sum : sum;
      }
    });
  }
  return input;
}

/* By how much the foreground is likelier, (height, width). */
function foregroundLogits(outputs, [channels, height, width]) {
  const size = height * width;
  if (channels === 1) return outputs;
  return Float32Array.from({ length: size }, (_, n) => outputs[size + n] - outputs[n]);
}

/* The mask at another size: logits are enlarged (bilinear), foreground is where they are above 0. */
function toMask(logits, [height, width], toHeight, toWidth) {
  const places = (from, to) => Array.from({ length: to }, (_, n) => {
    const place = Math.max((n + 0.5) * from / to - 0.5, 0), first = Math.min(Math.trunc(place), from - 1);
    return { first, next: Math.min(first + 1, from - 1), part: place - first };
  });
  const rows = places(height, toHeight), columns = places(width, toWidth);
  const mask = new Uint8Array(toHeight * toWidth);
  rows.forEach((row, y) => {
    const one = row.first * width, two = row.next * width;
    columns.forEach((column, x) => {
      const upper = logits[one + column.first] * (1 - column.part) + logits[one + column.next] * column.part;
      const lower = logits[two + column.first] * (1 - column.part) + logits[two + column.next] * column.part;
      mask[y * toWidth + x] = upper * (1 - row.part) + lower * row.part > 0 ? 1 : 0;
    });
  });
  return mask;
}

function softmax(outputs) {
  const most = Math.max(...outputs), powers = Array.from(outputs, (output) => Math.exp(output - most));
  const sum = powers.reduce((all, power) => all + power, 0);
  return powers.map((power) => power / sum);
}
