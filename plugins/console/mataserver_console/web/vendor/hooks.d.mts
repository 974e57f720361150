/** Preact's hooks. What begins as nothing, or as an empty list or map, may become anything. */
type Next<T> = T | ((old: T) => T);
type Wide<T> = T extends null | undefined ? any
  : T extends boolean ? boolean : T extends number ? number : T extends string ? string
  : T extends never[] ? any[] : T extends object ? any : T;

export function useState<T = any>(initial?: T | (() => T)): [Wide<T>, (next: Next<Wide<T>>) => void];
export function useRef(initial?: unknown): { current: any };
export function useMemo<T>(make: () => T, inputs: unknown[]): T;
export function useCallback<T extends Function>(callback: T, inputs: unknown[]): T;
export function useEffect(effect: () => void | (() => void), inputs?: unknown[]): void;
export function useLayoutEffect(effect: () => void | (() => void), inputs?: unknown[]): void;
export function useReducer<S, A>(reducer: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useContext<T>(context: { Provider: unknown }): T;
export function useErrorBoundary(): [Error | undefined, () => void];
export function useId(): string;
