// Draws a cloud beside the page, whose own thread neither reads the points nor waits for WebGL.
import { CloudScene } from "./cloud_scene.mjs";
import { drawnBy } from "./webgl.mjs";

let scene = /** @type {any} */ (null);

onmessage = ({ data: { id, name, args } }) => {
  try {
    if (name === "begin") scene = new CloudScene(args[0], args[1]);
    postMessage({ id, value: name === "begin" ? null : scene[name](...args) });
  } catch (error) { postMessage({ id, error: error.message }); }
};
postMessage({ drawer: drawnBy(new OffscreenCanvas(1, 1)) });
