// A point cloud and the cameras that saw it, drawn by WebGL. z is up, the ground lies at 0.
import { Pad } from "./cloud_pad.mjs";
import { frustum, plain, poseOf, spacing, wholeOf } from "./cloud_shape.mjs";
import { Sight } from "./cloud_sight.mjs";
import { tint } from "./depth.mjs";
import { PLYLoader } from "./vendor/ply.mjs";
import * as three from "./vendor/three.mjs";

const GROUND = 0x0d1116, GRID = 0x232a33, CAMERA = 0x56b4e9, CHOSEN = 0xffd479;
const REACH = 10;  // pixels round a camera in which a click is meant for it
const BEYOND = 1000;  // times the radius: a plane that cuts nothing off
const EDGES = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]];  // apex, then round the picture
const FACES = [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [1, 2, 3], [1, 3, 4]];

/** Drawn on a page's canvas, or on one that a page gave to a worker: it knows no page. */
export class CloudScene {
  /**
   * Throws where the browser has no WebGL.
   * @param {HTMLCanvasElement | OffscreenCanvas} canvas
   * @param {{width: number, height: number, ratio: number, still: boolean, slow: boolean}} given the size in pixels of the page, how many the
   *   screen has for one of them, whether motion is not wanted, and whether a processor draws: then each pixel costs, and smooth edges four times as much
   */
  constructor(canvas, { width, height, ratio, still, slow }) {
    this.renderer = new three.WebGLRenderer({ canvas, antialias: !slow });
    this.renderer.setPixelRatio(slow ? 1 : Math.min(ratio, 2));
    this.renderer.localClippingEnabled = true;
    this.scene = new three.Scene();
    this.scene.background = new three.Color(GROUND);
    this.pad = new Pad();
    this.sight = new Sight(this.pad, () => this.draw());
    this.sight.still = still;
    this.material = new three.PointsMaterial({ size: 3, sizeAttenuation: false, vertexColors: true });
    this.planes = [0, 1, 2].flatMap((axis) => [1, -1].map((sign) => new three.Plane(new three.Vector3().setComponent(axis, sign), 0)));
    this.asked = 0;
    this.depth = 1;
    this.views = [];
    /** @type {any} what is shown */
    this.points = this.picture = this.frusta = this.grid = null;
    this.measure(width, height);
  }

  /** How large it is, as `wholeOf` tells it. */
  get whole() { return this.sight.whole; }

  /**
   * Show a model, from behind its cameras. Returns the side of a square of the ground, and the heights.
   * @param {ArrayBuffer} ply
   * @param {import("./cloud_shape.mjs").View[]} views
   */
  show(ply, views) {
    const geometry = new PLYLoader().parse(ply);
    this.picture = geometry.getAttribute("color");
    this.points = new three.Points(geometry, this.material);
    this.sight.whole = wholeOf(geometry.getAttribute("position"), views.map((view) => poseOf(view).place));
    this.scene.add(this.points);
    const step = this.lattice();
    this.enter(views);
    this.sight.measure(this.pad.clientWidth, this.pad.clientHeight);
    this.sight.fit();
    return { step, ends: [this.whole.box.min.z, this.whole.box.max.z] };
  }

  /** The ground, in squares of as many of the model's units as are returned. */
  lattice() {
    const { radius, all } = this.whole;
    const step = plain(radius / 6);
    const squares = 2 * Math.ceil((radius * 1.5) / step);
    this.grid = new three.GridHelper(squares * step, squares, GRID, GRID).rotateX(Math.PI / 2);
    const middle = all.getCenter(new three.Vector3());
    this.grid.position.set(Math.round(middle.x / step) * step, Math.round(middle.y / step) * step, 0);
    this.scene.add(this.grid);
    return step;
  }

  /** The cameras as frusta: lines, and corners that clicks are tried on. */
  enter(views) {
    const { radius, stand } = this.whole;
    this.depth = Math.max(0.015 * radius, Math.min(0.1 * radius, 0.8 * spacing(stand)));
    this.views = views.map((view) => ({ ...view, corners: frustum(view, this.depth) }));
    const ends = this.views.flatMap(({ corners }) => EDGES.flatMap((edge) => edge.map((at) => corners[at])));
    const geometry = new three.BufferGeometry().setFromPoints(ends);
    geometry.setAttribute("color", new three.Float32BufferAttribute(new Float32Array(ends.length * 3), 3));
    this.frusta = new three.LineSegments(geometry, new three.LineBasicMaterial({ vertexColors: true }));
    this.scene.add(this.frusta);
    this.choose("");
  }

  /** Draw one camera as the chosen one. */
  choose(name) {
    const colours = this.frusta.geometry.getAttribute("color");
    const plainOne = new three.Color(CAMERA), chosen = new three.Color(CHOSEN);
    this.views.forEach(({ image }, at) => {
      const colour = image === name ? chosen : plainOne;
      for (let end = 0; end < EDGES.length * 2; end += 1) colours.setXYZ(at * EDGES.length * 2 + end, colour.r, colour.g, colour.b);
    });
    colours.needsUpdate = true;
    this.draw();
  }

  /** Colour the points as the photographs show them, or by their height. */
  colour(how) {
    const geometry = this.points.geometry;
    const places = geometry.getAttribute("position");
    const [low, high] = [this.whole.box.min.z, this.whole.box.max.z];
    if (how === "height" || !this.picture) {
      const colours = new Float32Array(places.count * 3);
      const colour = new three.Color();
      for (let at = 0; at < places.count; at += 1) {
        const [r, g, b] = tint((places.getZ(at) - low) / (high - low || 1));
        colour.setRGB(r / 255, g / 255, b / 255, three.SRGBColorSpace).toArray(colours, at * 3);
      }
      geometry.setAttribute("color", new three.BufferAttribute(colours, 3));
    } else geometry.setAttribute("color", this.picture);
    this.draw();
  }

  /** How large a point is drawn, in pixels. */
  size(pixels) { this.material.size = pixels; this.draw(); }

  cameras(shown) { this.frusta.visible = shown; this.draw(); }

  /** Show the points within parts of the model's box alone: [from, to] of each axis, 0 to 1; null is all. */
  clip(parts) {
    this.material.clippingPlanes = parts && this.planes;
    if (parts) {
      const { box, radius } = this.whole;
      const size = box.getSize(new three.Vector3());
      parts.forEach(([from, to], axis) => {
        const [low, span] = [box.min.getComponent(axis), size.getComponent(axis)];
        this.planes[axis * 2].constant = from <= 0 ? radius * BEYOND : -(low + from * span);
        this.planes[axis * 2 + 1].constant = to >= 1 ? radius * BEYOND : low + to * span;
      });
    }
    this.draw();
  }

  fit() { this.sight.fit(); }

  /** Go where a photograph was taken. */
  fly(name) {
    const view = this.views.find(({ image }) => image === name);
    if (view) this.sight.fly(view, this.depth);
  }

  orbit(across, up, factor) { this.sight.orbit(across, up, factor); }

  /** Whether motion is not wanted. */
  motionless(still) { this.sight.still = still; }

  /** Something was done on the canvas, as `listen` tells it. */
  hear(event) { this.pad.hear(event); }

  /** Make the point at a place of the canvas the centre, if there is one. */
  centre(x, y) {
    const ray = this.sight.ray(x, y);
    ray.params.Points.threshold = this.whole.radius / 100;
    const hit = ray.intersectObject(this.points)[0];
    if (hit) this.sight.move(this.sight.camera.position.clone(), hit.point);
  }

  /** The photograph whose camera is at a place of the canvas, or "". */
  pick(x, y) {
    if (!this.frusta?.visible) return "";
    const { ray } = this.sight.ray(x, y);
    const into = new three.Vector3();
    let best = "", least = Infinity;
    for (const { image, corners } of this.views) {
      const hit = FACES.some((face) => ray.intersectTriangle(...face.map((at) => corners[at]), false, into));
      const near = this.sight.off(corners[0], x, y) < REACH ? corners[0].distanceTo(this.sight.camera.position) : Infinity;
      const away = hit ? into.distanceTo(ray.origin) : near;
      if (away < least) { least = away; best = image; }
    }
    return best;
  }

  /** The canvas has another size. It is drawn at once: one that was made larger is empty. */
  measure(width, height) {
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.sight.measure(width, height);
    this.renderer.render(this.scene, this.sight.camera);
  }

  /** Draw before the next frame, once however much changed. */
  draw() {
    this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.renderer.render(this.scene, this.sight.camera); });
  }

  dispose() {
    cancelAnimationFrame(this.asked);
    this.sight.dispose();
    for (const each of [this.points, this.frusta, this.grid]) each?.geometry.dispose();
    this.material.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}
