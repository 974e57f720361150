// Where the files and photographs of a job are.
export const fileOf = (job, name) => `v1/jobs/${job.id}/files/${name.split("/").map(encodeURIComponent).join("/")}`;
export const photoOf = (job, images, name) => `jobs/${job.id}/photos/${images.findIndex((image) => image.name === name)}`;
