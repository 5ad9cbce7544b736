// Which earlier run gave what the host kept for a node: one with the same node behind the same nodes, of whatever workflow.

/**
 * @typedef {Record<string, { class_type: string, inputs: Record<string, any> }>} Prompt as a page sends it
 * @typedef {{ prompt: [number, string, Prompt, ...any[]] }} Run as the history of ComfyUI tells it
 */

/**
 * @param {Prompt} prompt
 * @param {string} id of a node
 * @returns {string} the node and all before it with what they were given; two are equal whatever the ids
 */
export function recipe(prompt, id) {
  /** @type {Map<string, number>} */
  const places = new Map()
  /** @type {any[]} */
  const nodes = []
  const isLink = (/** @type {any} */ value) => Array.isArray(value) && value.length === 2 && String(value[0]) in prompt
  const place = (/** @type {string} */ at) => {
    const known = places.get(at)
    if (known !== undefined) return known
    const { class_type, inputs } = prompt[at]
    const given = Object.keys(inputs).sort().map((name) => [name, isLink(inputs[name]) ? { from: place(String(inputs[name][0])), output: inputs[name][1] } : inputs[name]])
    places.set(at, nodes.push([class_type, given]) - 1)
    return nodes.length - 1
  }
  place(id)
  return JSON.stringify(nodes)
}

/**
 * @template {Run} T
 * @param {T[]} runs the last one first
 * @param {string} now the id of a run
 * @param {string} id of a node in it
 * @returns {[T, string][]} the runs with such a node, and its id there
 */
export function sameIn(runs, now, id) {
  const mine = runs.find(({ prompt }) => prompt[1] === now)?.prompt[2]
  if (!mine?.[id]) return []
  const wanted = recipe(mine, id)
  const same = (/** @type {Prompt} */ prompt) => Object.keys(prompt).filter((other) => prompt[other].class_type === mine[id].class_type && recipe(prompt, other) === wanted)
  return runs.flatMap((run) => same(run.prompt[2]).map((other) => /** @type {[T, string]} */ ([run, other])))
}
