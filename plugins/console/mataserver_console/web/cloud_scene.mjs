// A point cloud and the cameras that saw it, drawn by WebGL. z is up, the ground lies at 0.
import { tint } from "./depth.mjs";
import { OrbitControls } from "./vendor/orbit.mjs";
import { PLYLoader } from "./vendor/ply.mjs";
import * as three from "./vendor/three.mjs";

const GROUND = 0x0d1116, GRID = 0x232a33, CAMERA = 0x56b4e9, CHOSEN = 0xffd479;
const FIELD = 50;  // degrees, up and down
const REACH = 10;  // pixels round a camera in which a click is meant for it
const MARGIN = 0.85;  // part of the view that a model fills
const SAMPLED = 2000;  // points that are looked at for it
const FLIGHT = 400;  // milliseconds
const STRAY = 0.01;  // part of the points at each end of an axis that does not tell how large the model is
const BEYOND = 1000;  // times the radius: a plane that cuts nothing off
const EDGES = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]];  // apex, then round the picture
const FACES = [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [1, 2, 3], [1, 3, 4]];

/** A turn of the world, [3][3], applied to a vector; `back` applies its inverse. */
const turned = (rows, v) => rows.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
const back = (rows, v) => [0, 1, 2].map((i) => rows[0][i] * v[0] + rows[1][i] * v[1] + rows[2][i] * v[2]);

/** Where a camera of `cameras.json` stands, and a place before it, from pixels and a depth. */
export function poseOf(view) {
  const { rotation, translation, focal, centre } = view;
  const world = (x, y, depth) => back(rotation, [((x - centre[0]) / focal) * depth, ((y - centre[1]) / focal) * depth, depth].map((value, i) => value - translation[i]));
  const place = back(rotation, translation.map((value) => -value));
  return { place, world, depth: (point) => turned(rotation, point)[2] + translation[2] };
}

/** The five corners of what a camera sees, as far away as `depth`: itself, then its picture's. */
function frustum(view, depth) {
  const { place, world } = poseOf(view);
  const { width, height } = view;
  return [place, ...[[0, 0], [width, 0], [width, height], [0, height]].map(([x, y]) => world(x, y, depth))].map((point) => new three.Vector3(...point));
}

const part = (sorted, share) => sorted[Math.max(0, Math.min(sorted.length - 1, Math.round(share * (sorted.length - 1))))];

/** Least and greatest of each axis without the strays, of three-dimensional places. */
function extent(places) {
  const axes = [0, 1, 2].map((axis) => Float32Array.from(places, (place) => place[axis]).sort());
  return new three.Box3(...[STRAY, 1 - STRAY].map((share) => new three.Vector3(...axes.map((axis) => part(axis, share)))));
}

/** 1, 2 or 5 times a power of ten that is not greater. */
function plain(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return power * ([5, 2, 1].find((step) => step * power <= length) ?? 1);
}

/** How far apart cameras stand from the next one, in the middle. */
function spacing(places) {
  const next = places.map((one, i) => Math.min(...places.map((other, j) => (i === j ? Infinity : Math.hypot(...one.map((value, k) => value - other[k]))))));
  return part(next.filter(Number.isFinite).sort((a, b) => a - b), 0.5) ?? Infinity;
}

/** Whether there is no GPU to draw with: then each pixel costs, and smooth edges cost four times as much. */
function drawnByProcessor() {
  const context = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  context?.getExtension("WEBGL_lose_context")?.loseContext();  // a page may hold few of them
  return !context;
}

export class CloudScene {
  /**
   * Throws where the browser has no WebGL.
   * @param {HTMLCanvasElement} canvas
   */
  constructor(canvas) {
    this.canvas = canvas;
    const slow = drawnByProcessor();
    this.renderer = new three.WebGLRenderer({ canvas, antialias: !slow });
    this.renderer.setPixelRatio(slow ? 1 : Math.min(devicePixelRatio, 2));
    this.renderer.localClippingEnabled = true;
    this.scene = new three.Scene();
    this.scene.background = new three.Color(GROUND);
    this.camera = new three.PerspectiveCamera(FIELD, 1, 0.01, 1000);
    this.camera.up.set(0, 0, 1);  // before the controls: they keep it
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.zoomToCursor = true;
    this.controls.addEventListener("change", () => this.draw());
    this.controls.addEventListener("start", () => { this.flight = 0; });
    this.material = new three.PointsMaterial({ size: 3, sizeAttenuation: false, vertexColors: true });
    this.planes = [0, 1, 2].flatMap((axis) => [1, -1].map((sign) => new three.Plane(new three.Vector3().setComponent(axis, sign), 0)));
    this.views = [];
    this.flight = 0;
    this.asked = 0;
    /** @type {any} what is shown, and what is around all of it */
    this.points = this.picture = this.frusta = this.grid = this.box = this.all = null;
    /** @type {number[][]} where the cameras stand */
    this.stand = [];
    /** @type {any[]} points that must be in sight */
    this.sample = [];
    this.radius = this.step = this.depth = 1;
    this.room = /** @type {HTMLElement} */ (canvas.parentElement);
    this.watch = new ResizeObserver(() => this.measure());
    this.watch.observe(this.room);
  }

  /**
   * Show a model, from behind its cameras.
   * @param {ArrayBuffer} ply
   * @param {{image: string, width: number, height: number, focal: number, centre: number[], rotation: number[][], translation: number[]}[]} views
   */
  show(ply, views) {
    this.clear();
    const geometry = new PLYLoader().parse(ply);
    this.picture = geometry.getAttribute("color");
    this.points = new three.Points(geometry, this.material);
    const places = geometry.getAttribute("position");
    const each = Array.from({ length: places.count }, (_, at) => [places.getX(at), places.getY(at), places.getZ(at)]);
    this.stand = views.map((view) => poseOf(view).place);
    this.box = extent(each);
    this.all = this.box.clone();
    for (const place of this.stand) this.all.expandByPoint(new three.Vector3(...place));
    this.radius = Math.max(1e-6, this.all.getSize(new three.Vector3()).length() / 2);
    const every = Math.ceil(each.length / SAMPLED);
    this.sample = [...each.filter((_, at) => at % every === 0), ...this.stand].map((place) => new three.Vector3(...place));
    this.scene.add(this.points);
    this.lattice();
    this.enter(views);
    this.measure();
    this.fit();
  }

  clear() {
    for (const each of [this.points, this.frusta, this.grid]) {
      if (!each) continue;
      this.scene.remove(each);
      each.geometry.dispose();
    }
    this.picture = this.points = this.frusta = this.grid = null;
  }

  /** The ground, in squares of `step` of the model's units. */
  lattice() {
    this.step = plain(this.radius / 6);
    const squares = 2 * Math.ceil((this.radius * 1.5) / this.step);
    this.grid = new three.GridHelper(squares * this.step, squares, GRID, GRID).rotateX(Math.PI / 2);
    const middle = this.all.getCenter(new three.Vector3());
    this.grid.position.set(Math.round(middle.x / this.step) * this.step, Math.round(middle.y / this.step) * this.step, 0);
    this.scene.add(this.grid);
  }

  /** The cameras as frusta: lines, and corners that clicks are tried on. */
  enter(views) {
    const depth = Math.max(0.015 * this.radius, Math.min(0.1 * this.radius, 0.8 * spacing(this.stand)));
    this.views = views.map((view) => ({ ...view, corners: frustum(view, depth) }));
    this.depth = depth;
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

  /** Colour the points as the photographs show them, or by their height. Returns the heights. */
  colour(how) {
    const geometry = this.points.geometry;
    const places = geometry.getAttribute("position");
    const [low, high] = [this.box.min.z, this.box.max.z];
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
    return [low, high];
  }

  /** How large a point is drawn, in pixels. */
  size(pixels) { this.material.size = pixels; this.draw(); }

  cameras(shown) { this.frusta.visible = shown; this.draw(); }

  /** Show the points within parts of the model's box alone: [from, to] of each axis, 0 to 1; null is all. */
  clip(parts) {
    this.material.clippingPlanes = parts && this.planes;
    if (parts) {
      const size = this.box.getSize(new three.Vector3());
      parts.forEach(([from, to], axis) => {
        const [low, span] = [this.box.min.getComponent(axis), size.getComponent(axis)];
        this.planes[axis * 2].constant = from <= 0 ? this.radius * BEYOND : -(low + from * span);
        this.planes[axis * 2 + 1].constant = to >= 1 ? this.radius * BEYOND : low + to * span;
      });
    }
    this.draw();
  }

  /** All of it, from behind the cameras and above them. */
  fit() {
    const middle = this.all.getCenter(new three.Vector3());
    const from = this.stand.reduce((sum, place) => sum.add(new three.Vector3(...place)), new three.Vector3()).divideScalar(this.stand.length || 1);
    const away = from.sub(this.box.getCenter(new three.Vector3())).setZ(0);
    if (away.length() < 0.05 * this.radius) away.set(-0.6, -1, 0);
    away.normalize().multiplyScalar(Math.cos(0.45)).setZ(Math.sin(0.45));
    this.move(middle.clone().addScaledVector(away, this.far(middle, away)), middle);
  }

  /** How far away from `middle` everything is just in sight. */
  far(middle, away) {
    const shown = this.sample.filter((place) => this.all.containsPoint(place));
    const tall = Math.tan((FIELD * Math.PI) / 360) * MARGIN;
    const ahead = away.clone().negate(), right = new three.Vector3().crossVectors(ahead, this.camera.up).normalize();
    const up = new three.Vector3().crossVectors(right, ahead);
    return shown.reduce((most, place) => {
      const off = place.clone().sub(middle);
      return Math.max(most, Math.abs(off.dot(up)) / tall - off.dot(ahead), Math.abs(off.dot(right)) / (tall * this.camera.aspect) - off.dot(ahead));
    }, this.radius / 10);
  }

  /** Go where a photograph was taken, a step back, and look where it looks. */
  fly(name) {
    const view = this.views.find(({ image }) => image === name);
    if (!view) return;
    const pose = poseOf(view);
    const ahead = Math.max(this.depth * 2, pose.depth(this.box.getCenter(new three.Vector3()).toArray()));
    const { width, height } = view;
    this.move(new three.Vector3(...pose.world(width / 2, height / 2, -this.depth * 1.5)), new three.Vector3(...pose.world(width / 2, height / 2, ahead)));
  }

  /** Make the point under the pointer the centre; false where there is none. */
  centre(event) {
    const ray = this.ray(event);
    ray.params.Points.threshold = this.radius / 100;
    const hit = ray.intersectObject(this.points)[0];
    if (!hit) return false;
    this.move(this.camera.position.clone(), hit.point);
    return true;
  }

  /** The photograph whose camera is under the pointer, or "". */
  pick(event) {
    if (!this.frusta?.visible) return "";
    const { ray } = this.ray(event);
    const into = new three.Vector3();
    let best = "", least = Infinity;
    for (const { image, corners } of this.views) {
      const hit = FACES.some((face) => ray.intersectTriangle(...face.map((at) => corners[at]), false, into));
      const away = hit ? into.distanceTo(ray.origin) : this.near(event, corners[0]);
      if (away < least) { least = away; best = image; }
    }
    return best;
  }

  /** How far away a camera is that is drawn within reach of the pointer; else infinite. */
  near(event, place) {
    const rect = this.canvas.getBoundingClientRect();
    const drawn = place.clone().project(this.camera);
    const off = Math.hypot(rect.left + ((drawn.x + 1) / 2) * rect.width - event.clientX, rect.top + ((1 - drawn.y) / 2) * rect.height - event.clientY);
    return drawn.z < 1 && off < REACH ? place.distanceTo(this.camera.position) : Infinity;
  }

  ray(event) {
    const rect = this.canvas.getBoundingClientRect();
    const caster = new three.Raycaster();
    caster.setFromCamera(new three.Vector2(((event.clientX - rect.left) / rect.width) * 2 - 1, 1 - ((event.clientY - rect.top) / rect.height) * 2), this.camera);
    return caster;
  }

  /** Turn by angles in radians, or come nearer by a factor: what keys do. */
  orbit(across, up, factor = 1) {
    const { position } = this.camera, { target } = this.controls;
    const off = position.clone().sub(target);
    const flat = Math.hypot(off.x, off.y), length = off.length() * factor;
    const turn = Math.atan2(off.y, off.x) + across;
    const lift = Math.max(-1.5, Math.min(1.5, Math.atan2(off.z, flat) + up));
    position.set(Math.cos(turn) * Math.cos(lift), Math.sin(turn) * Math.cos(lift), Math.sin(lift)).multiplyScalar(length).add(target);
    this.controls.update();
    this.draw();
  }

  /** Move over to a place and a target; at once where motion is not wanted. */
  move(place, target) {
    const { position } = this.camera, aim = this.controls.target;
    const [from, at] = [position.clone(), aim.clone()];
    const own = performance.now();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches || from.lengthSq() === 0;
    this.flight = own;
    const go = (now) => {
      if (this.flight !== own) return;
      const share = still ? 1 : Math.min(1, Math.max(0, (now - own) / FLIGHT));
      const eased = 1 - (1 - share) ** 3;
      position.lerpVectors(from, place, eased);
      aim.lerpVectors(at, target, eased);
      this.controls.update();
      this.draw();
      if (share < 1) requestAnimationFrame(go);
    };
    go(own);
  }

  measure() {
    const { clientWidth: width, clientHeight: height } = this.room;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.near = this.radius / 1000;
    this.camera.far = this.radius * 100;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  /** Draw before the next frame, once however much changed. */
  draw() {
    this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.renderer.render(this.scene, this.camera); });
  }

  dispose() {
    this.flight = -1;
    cancelAnimationFrame(this.asked);
    this.watch.disconnect();
    this.controls.dispose();
    this.clear();
    this.material.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}
