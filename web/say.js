// The texts of the displays in the language of the page: English stands in the code, the others in locales/LANGUAGE/main.json.

/** @type {Record<string, string>} */
let texts = {}

/**
 * Take the texts of a language; what it lacks stays English.
 * @param {Record<string, any>} locales as ComfyUI gives them, by language
 * @param {string} language
 */
export function speak(locales, language) {
  texts = locales[language]?.patchbay ?? {}
}

/**
 * Return a text in the language of the page.
 * @param {string} english with `$1`, `$2` ... where the values go
 * @param {...(string | number)} values
 * @returns {string}
 */
export function say(english, ...values) {
  return (texts[english] ?? english).replace(/\$(\d)/g, (mark, number) => String(values[number - 1] ?? mark))
}
