// What the server tells of the model files that loaders name: their family and blocks, read off the file's header.
import { say } from './say.js'

/**
 * @typedef {{ family?: string, kinds?: string[], blocks?: Record<string, number>, map?: import('./block_layout.js').MapBlock[], error?: string }} Answer
 * @typedef {import('./loader.js').Loader} Loader
 * @typedef {{ name: string, layout: import('./models.js').Layout | null }} Found
 */

export class KnownModels {
  /** @param {(path: string) => Promise<{ json: () => Promise<Answer> }>} fetch asks the server */
  constructor(fetch) {
    this.fetch = fetch
    /** @type {Map<string, Promise<Answer>>} */
    this.answers = new Map()
  }

  /**
   * Tell which model a loader loads.
   * @param {Loader | null} loader
   * @returns {Promise<Found>} with the reason for its name, where it is not known
   */
  async of(loader) {
    if (!loader) return { name: say('Nothing tells which model this node gets. Choose one like it.'), layout: null }
    const { family, kinds, blocks, map, error } = await this.answer(loader)
    if (!blocks || !map?.length || !kinds) return { name: say('$1: $2. Choose a model like it.', loader.file, error ?? say('its blocks are not known')), layout: null }
    const counts = Object.entries(blocks).map(([type, count]) => `${count} ${type}`)
    return { name: `${loader.file}: ${family}, ${counts.join(', ')}`, layout: { blocks: map, kinds } }
  }

  /**
   * @param {Loader} loader
   * @returns {Promise<Answer>} an error is not kept: the file may come
   */
  answer({ input, file }) {
    const query = new URLSearchParams({ input, file }).toString()
    const known = this.answers.get(query)
    if (known) return known
    const asked = this.fetch(`/patchbay/blocks?${query}`)
      .then((answer) => answer.json())
      .catch(() => ({ error: say('the server does not tell its blocks') }))
    this.answers.set(query, asked)
    asked.then(({ error }) => error && this.answers.delete(query))
    return asked
  }
}
