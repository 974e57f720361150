// From where a scene is looked at: the camera, the hand that turns it, and its ways from place to place.
import { poseOf } from "./cloud_shape.mjs";
import { OrbitControls } from "./vendor/orbit.mjs";
import * as three from "./vendor/three.mjs";

const FIELD = 50;  // degrees, up and down
const MARGIN = 0.85;  // part of the view that a model fills
const FLIGHT = 400;  // milliseconds

export class Sight {
  /**
   * @param {import("./cloud_pad.mjs").Pad} pad
   * @param {() => void} draw is called when something else is in sight
   */
  constructor(pad, draw) {
    this.pad = pad;
    this.draw = draw;
    this.camera = new three.PerspectiveCamera(FIELD, 1, 0.01, 1000);
    this.camera.up.set(0, 0, 1);  // before the controls: they keep it
    this.controls = new OrbitControls(this.camera, pad);
    this.controls.zoomToCursor = true;
    this.controls.addEventListener("change", draw);
    this.controls.addEventListener("start", () => { this.flight = 0; });
    this.flight = 0;
    /** Whether motion is not wanted. */
    this.still = false;
    /** @type {any} how large the model is, as `wholeOf` tells it */
    this.whole = null;
  }

  /** The part of the page that it is seen on, in its pixels. */
  measure(width, height) {
    Object.assign(this.pad, { clientWidth: width, clientHeight: height });
    this.camera.aspect = width / height;
    if (this.whole) Object.assign(this.camera, { near: this.whole.radius / 1000, far: this.whole.radius * 100 });
    this.camera.updateProjectionMatrix();
  }

  /** All of it, from behind the cameras and above them. */
  fit() {
    const { all, box, stand, radius } = this.whole;
    const middle = all.getCenter(new three.Vector3());
    const from = stand.reduce((sum, place) => sum.add(new three.Vector3(...place)), new three.Vector3()).divideScalar(stand.length || 1);
    const away = from.sub(box.getCenter(new three.Vector3())).setZ(0);
    if (away.length() < 0.05 * radius) away.set(-0.6, -1, 0);
    away.normalize().multiplyScalar(Math.cos(0.45)).setZ(Math.sin(0.45));
    this.move(middle.clone().addScaledVector(away, this.far(middle, away)), middle);
  }

  /** How far away from `middle` everything is just in sight. */
  far(middle, away) {
    const { all, sample, radius } = this.whole;
    const tall = Math.tan((FIELD * Math.PI) / 360) * MARGIN;
    const ahead = away.clone().negate(), right = new three.Vector3().crossVectors(ahead, this.camera.up).normalize();
    const up = new three.Vector3().crossVectors(right, ahead);
    return sample.filter((place) => all.containsPoint(place)).reduce((most, place) => {
      const off = place.clone().sub(middle);
      return Math.max(most, Math.abs(off.dot(up)) / tall - off.dot(ahead), Math.abs(off.dot(right)) / (tall * this.camera.aspect) - off.dot(ahead));
    }, radius / 10);
  }

  /** Go where a photograph was taken, a step back of `depth`, and look where it looks. */
  fly(view, depth) {
    const pose = poseOf(view);
    const ahead = Math.max(depth * 2, pose.depth(this.whole.box.getCenter(new three.Vector3()).toArray()));
    const { width, height } = view;
    this.move(new three.Vector3(...pose.world(width / 2, height / 2, -depth * 1.5)), new three.Vector3(...pose.world(width / 2, height / 2, ahead)));
  }

  /** What lies under a place of the page's part. */
  ray(x, y) {
    const { clientWidth: width, clientHeight: height } = this.pad;
    const caster = new three.Raycaster();
    caster.setFromCamera(new three.Vector2((x / width) * 2 - 1, 1 - (y / height) * 2), this.camera);
    return caster;
  }

  /** How many pixels a point is away from a place of the page's part; behind the camera it is infinitely far. */
  off(point, x, y) {
    const drawn = point.clone().project(this.camera);
    const { clientWidth: width, clientHeight: height } = this.pad;
    return drawn.z < 1 ? Math.hypot(((drawn.x + 1) / 2) * width - x, ((1 - drawn.y) / 2) * height - y) : Infinity;
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
    const still = this.still || from.lengthSq() === 0;
    this.flight = own;
    const go = () => {
      if (this.flight !== own) return;
      const share = still ? 1 : Math.min(1, (performance.now() - own) / FLIGHT);
      const eased = 1 - (1 - share) ** 3;
      position.lerpVectors(from, place, eased);
      aim.lerpVectors(at, target, eased);
      this.controls.update();
      this.draw();
      if (share < 1) requestAnimationFrame(go);
    };
    go();
  }

  dispose() {
    this.flight = -1;
    this.controls.dispose();
  }
}
