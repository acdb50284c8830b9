// A LiteRT file with its description: from pixels to probabilities.

import {loadAndCompile, loadLiteRt, Tensor} from './litert/index.js';
import {normalize, prepare} from './resampling.js';

const FORMAT = 1;
/** How far the logits of a graphics card may be from the CPU's, as a share of the largest, before the CPU is taken. */
const AGREEMENT = 1e-3;

/** The runtime, the model and what it says of itself; on WebGPU where that answers as the CPU does. */
export async function loadClassifier() {
  const description = await (await fetched('model.json')).json();
  check(description);
  const file = new Uint8Array(await (await fetched('model.tflite')).arrayBuffer());
  self.Module = {printErr: log};
  await loadLiteRt('./litert/wasm/', {threads: false});
  const classifier = new Classifier(description, await loadAndCompile(file, {accelerator: 'wasm'}), 'CPU (WebAssembly)');
  const pixels = noise(description.preprocessing);
  const wanted = await classifier.logits(pixels); // It says whether the model runs, and the next run is faster.
  return (await onGraphicsCard(classifier, file, pixels, wanted)) ?? classifier;
}

/** What the runtime writes to stderr is mostly news of itself. */
function log(text) {
  (/^(INFO|WARNING)/.test(text) ? console.debug : console.error)(text);
}

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} is missing (status ${response.status})`);
  return response;
}

function check({format, outputs, preprocessing}) {
  if (format !== FORMAT) throw new Error(`model.json has format ${format}, and this page reads ${FORMAT}`);
  if (outputs.length !== 1 || outputs[0] !== 'logits' || preprocessing.normalized_inside) {
    throw new Error('model.tflite has to take normalised images and to answer logits');
  }
}

async function onGraphicsCard(reference, file, pixels, wanted) {
  if (reference.description.made.weights === 'int8') return null; // A graphics card would compute it in float.
  try {
    if (!(await navigator.gpu?.requestAdapter())) return null;
    const model = await loadAndCompile(file, {accelerator: 'webgpu', gpuOptions: {precision: 'fp32'}});
    const candidate = new Classifier(reference.description, model, 'GPU (WebGPU)');
    const agrees = areNear(await candidate.logits(pixels), wanted);
    (agrees ? reference : candidate).model.delete();
    return agrees ? candidate : null;
  } catch (error) {
    console.info(`WebGPU is not used: ${error.message}`);
    return null;
  }
}

/** Whether logits are those wanted. Of many classes most probabilities are near 0, right or wrong: they do not tell. */
function areNear(got, wanted) {
  const largest = wanted.reduce((sofar, logit) => Math.max(sofar, Math.abs(logit)), 0);
  return got.length === wanted.length && got.every((logit, at) => Math.abs(logit - wanted[at]) <= AGREEMENT * largest);
}

function noise({image_size: size, channels}) {
  let state = 1;
  return Uint8Array.from({length: size * size * channels}, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 24;
  });
}

class Classifier {
  constructor(description, model, runtime) {
    this.description = description;
    this.model = model;
    this.runtime = runtime;
  }

  /** The most probable classes of an image, the best first, and the milliseconds that the network took. */
  async classify(image, top = 5) {
    const pixels = prepare(image, this.description.preprocessing);
    const start = performance.now();
    const probabilities = softmax(await this.logits(pixels));
    const milliseconds = performance.now() - start;
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    const classes = order.slice(0, top).map((index) => ({
      index,
      name: this.description.labels?.[index] ?? `class ${index}`,
      probability: probabilities[index],
    }));
    return {classes, milliseconds};
  }

  /** The logit of each class, of pixels as `prepare` makes them. */
  async logits(pixels) {
    const {image_size: size, channels} = this.description.preprocessing;
    const values = normalize(pixels, this.description.preprocessing);
    const input = new Tensor(values, [1, size, size, channels]);
    let outputs = [];
    try {
      outputs = await this.model.run(input);
      const logits = Array.from(await outputs[0].data());
      if (!logits.every(Number.isFinite)) throw new Error('the network answered numbers that are not finite');
      return logits;
    } finally {
      input.delete();
      outputs.forEach((output) => output.delete());
    }
  }
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}
