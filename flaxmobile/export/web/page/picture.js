// Pictures as the resampler reads them: upright, without colour management, transparent pixels on white.

/** Something that a canvas can draw, as an image that gives its rows. */
export function imageOf(drawable, width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  const context = canvas.getContext('2d', {willReadFrequently: true, alpha: false});
  return {
    width,
    height,
    strip(top, rows) {
      if (canvas.height !== rows) canvas.height = rows; // That clears the context too.
      context.imageSmoothingEnabled = false;
      context.fillStyle = 'white';
      context.fillRect(0, 0, width, rows);
      context.drawImage(drawable, 0, top, width, rows, 0, 0, width, rows);
      return context.getImageData(0, 0, width, rows).data;
    },
  };
}

/** The picture in a file; the caller closes it. Rejects where the browser does not know the format. */
export function decode(file) {
  return createImageBitmap(file, {colorSpaceConversion: 'none', imageOrientation: 'from-image'});
}

/** Draw a picture into a canvas of at most `longest` pixels a side, and shade what the network does not see of it. */
export function show(canvas, drawable, width, height, crop, longest = 1024) {
  const scale = Math.min(1, longest / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext('2d');
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(drawable, 0, 0, canvas.width, canvas.height);
  const [left, top] = [crop.left * canvas.width, crop.top * canvas.height];
  const [across, down] = [crop.width * canvas.width, crop.height * canvas.height];
  const outside = new Path2D();
  outside.rect(0, 0, canvas.width, canvas.height);
  outside.rect(left, top, across, down);
  context.fillStyle = 'rgb(0 0 0 / 0.45)';
  context.fill(outside, 'evenodd');
}
