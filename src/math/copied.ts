/** Values of one graph in another. */
import type { Graph, Node } from "./expr.ts";
import { operands } from "./expr.ts";

/** A value of another graph in `g`; `known` says what stands for nodes there, and learns of what is copied. */
export function copied(g: Graph, n: Node, known: Map<Node, Node>): Node {
  const found = known.get(n);
  if (found) return found;
  const [a, b, c] = operands(n).map((m) => copied(g, m, known)) as [Node, Node, Node];
  const made = again(g, n, a, b, c);
  known.set(n, made);
  return made;
}

function again(g: Graph, n: Node, a: Node, b: Node, c: Node): Node {
  switch (n.op) {
    case "const":
      return g.constant(n.value);
    case "word":
      return g.word(n.value);
    case "load":
      return g.load(n.at, n.format, n.first, n.last);
    case "counter":
      return g.counter(n.name, n.ahead, n.counts);
    case "register":
      return g.register(n.name);
    case "fma":
    case "fnma":
    case "select":
      return g[n.op](a, b, c);
    case "low32":
    case "high32":
    case "low64":
    case "high64":
      return g.shuffle(n.op, a, b);
    default:
      return g[n.op](a, b);
  }
}
