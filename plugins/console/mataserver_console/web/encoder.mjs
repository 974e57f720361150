// Makes JPEGs of a camera's frames, as a worker: on a page's own thread a browser encodes only while it has nothing to
// draw, and on a slow device that is once a second.
const canvas = new OffscreenCanvas(1, 1);
const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false, willReadFrequently: true }));

onmessage = async ({ data: { frame, quality } }) => {
  const { width, height } = frame;
  // A canvas whose size is set is made anew, and one on the GPU is read back for each JPEG.
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  pen.drawImage(frame, 0, 0);
  frame.close();
  postMessage(await canvas.convertToBlob({ type: "image/jpeg", quality }).catch(() => null));
};
