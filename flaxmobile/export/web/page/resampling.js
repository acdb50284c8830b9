// An image as a network's evaluation prepares it, with the numbers of Pillow's `resize`: a pass along rows and one along
// columns, in whole numbers of 22 bits after the point, rounded to 8 bits after each.

const FILTERS = {
  bilinear: {
    support: 1,
    weight: (distance) => Math.max(0, 1 - Math.abs(distance)),
  },
  bicubic: {
    // Keys' cubic convolution with a = -1/2.
    support: 2,
    weight(distance) {
      const x = Math.abs(distance);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
    },
  },
};
const BITS = 22;
const HALF = 1 << (BITS - 1);

/** Half a number is rounded to the even one, as Python does. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** What the shorter side is resized to, and where the square lies in it that the network sees, all in pixels. */
export function evaluationFrame(height, width, {image_size: size, crop_fraction: fraction}) {
  const shorter = Math.floor(size / fraction);
  const [rows, columns] = height < width
    ? [shorter, Math.floor((shorter * width) / height)]
    : [Math.floor((shorter * height) / width), shorter];
  return {rows, columns, top: roundHalfEven((rows - size) / 2), left: roundHalfEven((columns - size) / 2), size};
}

/**
 * For `count` pixels, from `first` on, of a side resized from `length` to `resized`: which pixels each is a sum of, and
 * with what weights. A reduction widens the filter, so that every pixel counts.
 */
export function weightsOf(length, resized, filter, first, count) {
  const {support, weight} = FILTERS[filter];
  const scale = length / resized;
  const widening = Math.max(scale, 1);
  const reach = support * widening;
  return Array.from({length: count}, (_, place) => {
    const centre = (first + place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(length, Math.trunc(centre + reach + 0.5));
    const raw = Array.from({length: end - start}, (_, at) => weight((at + start - centre + 0.5) / widening));
    const sum = raw.reduce((total, value) => total + value, 0);
    const whole = raw.map((value) => {
      const scaled = (sum ? value / sum : value) * (1 << BITS);
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
    return {start, weights: Int32Array.from(whole)};
  });
}

/** RGBA to as many channels as the network takes: 3, or 1 by ITU-R 601's luma. */
function channelsOf(rgba, channels) {
  const pixels = rgba.length / 4;
  const found = new Uint8Array(pixels * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (channels === 1) {
      found[to++] = (rgba[from] * 19595 + rgba[from + 1] * 38470 + rgba[from + 2] * 7471 + 0x8000) >> 16;
    } else {
      found[to++] = rgba[from];
      found[to++] = rgba[from + 1];
      found[to++] = rgba[from + 2];
    }
  }
  return found;
}

const toByte = (sum) => {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
};

/** Sums along the rows of `pixels` [rows, width, channels]: bytes [rows, sums, channels]. */
function alongRows(pixels, width, channels, sums) {
  const rows = pixels.length / (width * channels);
  const found = new Uint8Array(rows * sums.length * channels);
  let to = 0;
  for (let row = 0; row < rows; row++) {
    for (const {start, weights} of sums) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = HALF;
        let from = (row * width + start) * channels + channel;
        for (let at = 0; at < weights.length; at++, from += channels) sum += pixels[from] * weights[at];
        found[to++] = toByte(sum);
      }
    }
  }
  return found;
}

/** Sums along columns of rows of `length` bytes, which are added a strip at a time. */
function alongColumns(length, sums) {
  const totals = new Int32Array(sums.length * length).fill(HALF);
  const add = (strip, top) => {
    const bottom = top + strip.length / length;
    sums.forEach(({start, weights}, place) => {
      const end = Math.min(bottom, start + weights.length);
      for (let row = Math.max(top, start); row < end; row++) {
        const weight = weights[row - start];
        const [from, to] = [(row - top) * length, place * length];
        for (let byte = 0; byte < length; byte++) totals[to + byte] += strip[from + byte] * weight;
      }
    });
  };
  return {add, pixels: () => Uint8Array.from(totals, toByte)};
}

/** Whether columns are summed before rows. Pillow 13 does so where that takes away more; older ones never do. */
function columnsFirst(image, {rows, columns}) {
  return rows < image.height && image.height - rows > 2 * (image.width - columns);
}

const PIXELS_AT_ONCE = 2 ** 20;

/**
 * The pixels that the network sees, bytes [size, size, channels].
 *
 * @param image `width`, `height`, and `strip(top, rows)`, which gives so many of its rows as RGBA bytes.
 * @param preprocessing of the model's description.
 */
export function prepare(image, preprocessing) {
  const {channels, interpolation} = preprocessing;
  const {width, height} = image;
  const frame = evaluationFrame(height, width, preprocessing);
  const across = weightsOf(width, frame.columns, interpolation, frame.left, frame.size);
  const down = weightsOf(height, frame.rows, interpolation, frame.top, frame.size);
  const late = columnsFirst(image, frame);
  const columns = alongColumns((late ? width : frame.size) * channels, down);
  const last = down[down.length - 1];
  const bottom = last.start + last.weights.length;
  const rows = Math.max(1, Math.floor(PIXELS_AT_ONCE / width));
  for (let top = down[0].start; top < bottom; top += rows) {
    const strip = channelsOf(image.strip(top, Math.min(rows, bottom - top)), channels);
    columns.add(late ? strip : alongRows(strip, width, channels, across), top);
  }
  return late ? alongRows(columns.pixels(), width, channels, across) : columns.pixels();
}

/** `(pixels / 255 - mean) / std` of each channel, in float32. */
export function normalize(pixels, {channels, mean, std}) {
  const table = mean.map((value, channel) =>
    Float32Array.from({length: 256}, (_, byte) => {
      const centred = Math.fround(Math.fround(byte / 255) - Math.fround(value));
      return centred / Math.fround(std[channel]);
    }));
  return Float32Array.from(pixels, (byte, at) => table[at % channels][byte]);
}
