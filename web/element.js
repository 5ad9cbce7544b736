// An element with its style and its text.

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} kind
 * @param {Record<string, string>} style
 * @param {string} text
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(kind, style, text = '') {
  const made = document.createElement(kind)
  Object.assign(made.style, style)
  made.textContent = text
  return made
}
