/** What the page uses of Preact: components are functions of their properties. */
export type Node = unknown;
export type Component = (props: any) => Node;
/** What `memo` extends. */
export const Component: any;
export const Fragment: Component;
export function h(type: string | Component, props: object | null, ...children: unknown[]): Node;
export function render(node: Node, parent: Element): void;
export function createContext<T>(value: T): { Provider: Component };
