// The page: where pictures come from, and what is shown of the answers.

import {loadClassifier} from './classifier.js';
import {decode, imageOf, show} from './picture.js';
import {evaluationFrame} from './resampling.js';

const part = Object.fromEntries(Array.from(document.querySelectorAll('[id]'), (element) => [element.id, element]));
/** Milliseconds between two names that a screen reader is told from the camera. */
const PAUSE = 3000;

let classifier = null;
let stream = null;
let working = Promise.resolve();
const told = {name: '', at: 0};

function say(text, isError = false) {
  part.status.textContent = text;
  part.status.classList.toggle('error', isError);
}

const percent = (probability) => `${(100 * probability).toFixed(1)}%`;

/** Tell a screen reader the first answer; of the camera only a new one, and not too often. */
function announce({name, probability}, live) {
  if (live && (told.name === name || performance.now() - told.at < PAUSE)) return;
  Object.assign(told, {name, at: performance.now()});
  part.announcement.textContent = `Most likely: ${name}, ${percent(probability)}`;
}

function rowOf(place) {
  if (part.answers.children[place]) return part.answers.children[place];
  const row = document.createElement('li');
  const answer = document.createElement('div');
  answer.className = 'answer';
  answer.append(document.createElement('span'), document.createElement('data'));
  const bar = document.createElement('div');
  bar.className = 'bar';
  bar.setAttribute('aria-hidden', 'true');
  bar.append(document.createElement('div'));
  row.append(answer, bar);
  part.answers.append(row);
  return row;
}

function showAnswers(classes) {
  part.empty.hidden = true;
  classes.forEach(({name, index, probability}, place) => {
    const row = rowOf(place);
    row.dataset.index = index;
    row.querySelector('span').textContent = name;
    const share = row.querySelector('data');
    share.value = probability;
    share.textContent = percent(probability);
    row.querySelector('.bar div').style.width = `${100 * probability}%`;
  });
}

function showTimes(network, whole) {
  part.facts.hidden = false;
  part['network-time'].textContent = `${network.toFixed(1)} ms`;
  part['whole-time'].textContent = `${whole.toFixed(1)} ms`;
}

function showPicture(drawable, width, height, name) {
  const frame = evaluationFrame(height, width, classifier.description.preprocessing);
  const crop = {
    left: frame.left / frame.columns,
    top: frame.top / frame.rows,
    width: frame.size / frame.columns,
    height: frame.size / frame.rows,
  };
  show(part.preview, drawable, width, height, crop);
  part.preview.setAttribute('aria-label', `Picture: ${name}`);
  part.caption.textContent = `${name} · the network sees what is not shaded`;
  part.drop.hidden = true;
  part.figure.hidden = false;
  part.stage.classList.add('shown');
}

async function classify(drawable, width, height, name, live = false) {
  const start = performance.now();
  const {classes, milliseconds} = await classifier.classify(imageOf(drawable, width, height));
  const whole = performance.now() - start;
  showPicture(drawable, width, height, name);
  showAnswers(classes);
  showTimes(milliseconds, whole);
  announce(classes[0], live);
}

async function classifyFile(file) {
  say(`Looking at ${file.name} …`);
  let picture = null;
  try {
    picture = await decode(file);
  } catch {
    say(`${file.name} cannot be read as a picture by this browser: try a JPEG or PNG file.`, true);
    return;
  }
  try {
    await classify(picture, picture.width, picture.height, file.name);
    say('');
  } catch (error) {
    say(`${file.name} was not classified: ${error.message}`, true);
  } finally {
    picture.close();
  }
}

/** One picture after the other, in the order in which they come. */
function take(files) {
  if (!classifier || !files.length) return;
  stopCamera();
  working = working.then(() => classifyFile(files[0]));
}

async function startCamera() {
  let opened = null;
  try {
    opened = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}, audio: false});
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, true);
    return;
  }
  stream = opened;
  opened.getVideoTracks()[0].addEventListener('ended', stopCamera);
  part.camera.textContent = 'Stop the camera';
  part.camera.setAttribute('aria-pressed', 'true');
  say('');
  part.video.srcObject = opened;
  working = working.then(() => watch(opened));
}

async function watch(opened) {
  try {
    await part.video.play();
    while (stream === opened) {
      await classify(part.video, part.video.videoWidth, part.video.videoHeight, 'Camera', true);
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    if (stream === opened) say(`The camera was stopped: ${error.message}`, true);
    stopCamera();
  }
}

function stopCamera() {
  if (!stream) return;
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
  part.video.srcObject = null;
  part.camera.textContent = 'Use the camera';
  part.camera.setAttribute('aria-pressed', 'false');
}

function listen() {
  part.file.addEventListener('change', () => {
    take(Array.from(part.file.files));
    part.file.value = ''; // The same file may be chosen again.
  });
  part.camera.addEventListener('click', () => (stream ? stopCamera() : startCamera()));
  const carriesFiles = (event) => event.dataTransfer?.types.includes('Files');
  document.addEventListener('dragover', (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    part.stage.classList.add('over');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) part.stage.classList.remove('over');
  });
  document.addEventListener('drop', (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    part.stage.classList.remove('over');
    take(Array.from(event.dataTransfer.files));
  });
}

function describe({name, preprocessing, license, labels}) {
  const size = preprocessing.image_size;
  const facts = [name, labels && `${labels.length.toLocaleString('en')} classes`, `${size} × ${size} pixels`];
  if (license) facts.push(`weights: ${license}`);
  part.about.textContent = [...facts, 'LiteRT.js', 'made by flaxmobile'].filter(Boolean).join(' · ');
  part.runtime.textContent = classifier.runtime;
  if (name) document.title = `What is in the picture? · ${name}`;
}

async function start() {
  listen();
  try {
    classifier = await loadClassifier();
  } catch (error) {
    say(`The network was not loaded: ${error.message}`, true);
    return;
  }
  describe(classifier.description);
  part.file.disabled = false;
  const hasCamera = Boolean(navigator.mediaDevices?.getUserMedia);
  part.camera.disabled = !hasCamera;
  if (!hasCamera) part.camera.title = 'A browser gives the camera to pages from https or localhost alone';
  document.body.dataset.ready = 'true';
  say('Ready for a picture.');
}

start();
