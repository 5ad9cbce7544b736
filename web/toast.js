// Messages of the page, with what each frontend offers for them.

/**
 * @typedef {Record<string, (...given: any[]) => any>} Toast of the page: 1.49 takes a message away by itself, 1.58 by its number
 */

/**
 * Show an error for some seconds.
 * @param {Toast | undefined} toast
 * @param {string} summary
 * @param {string} detail
 * @param {number} seconds
 * @returns {() => void} what takes it away; nothing happens where the page cannot
 */
export function tellError(toast, summary, detail, seconds) {
  const life = 1000 * seconds
  if (toast?.error && toast.dismiss) {
    const number = toast.error(summary, { description: detail, duration: life, closable: true })
    return () => toast.dismiss(number)
  }
  const message = { severity: 'error', summary, detail, life }
  toast?.add?.(message)
  return () => toast?.remove?.(message)
}
