export const OrbitControls: any;
