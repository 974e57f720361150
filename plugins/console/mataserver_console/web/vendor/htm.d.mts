/** Markup in a template string; `bind` says what makes an element of it. */
declare const htm: {
  bind<T>(make: (type: any, props: any, ...children: any[]) => T): (parts: TemplateStringsArray, ...values: unknown[]) => T | T[];
};
export default htm;
