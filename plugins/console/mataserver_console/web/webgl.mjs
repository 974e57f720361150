const BY_PROCESSOR = /swiftshader|llvmpipe|softpipe|software|basic render/i;

/**
 * What WebGL draws with: "gpu", "processor", or "" where there is none.
 * @param {HTMLCanvasElement | OffscreenCanvas} canvas one that nothing else is drawn on
 */
export function drawnBy(canvas) {
  const context = /** @type {WebGL2RenderingContext | null} */ (canvas.getContext("webgl2"));
  if (!context) return "";
  // its name tells: in a worker Chromium heeds no failIfMajorPerformanceCaveat
  const told = context.getExtension("WEBGL_debug_renderer_info");
  const name = context.getParameter(told ? told.UNMASKED_RENDERER_WEBGL : context.RENDERER);
  context.getExtension("WEBGL_lose_context")?.loseContext();  // a page may hold few of them
  return BY_PROCESSOR.test(name) ? "processor" : "gpu";
}
