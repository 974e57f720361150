export const PLYLoader: any;
