import { createTranslator, type _Translator as Translator } from 'use-intl/core';

/** Texts by name; names may be grouped. */
export interface Tree {
  readonly [name: string]: string | Tree;
}

/** The same names, with any text. */
export type SameNames<T> = { readonly [K in keyof T]: T[K] extends string ? string : SameNames<T[K]> };

/** The texts of one page or component in both languages. */
export interface Texts<T extends Tree> {
  readonly en: T;
  readonly zh: SameNames<T>;
}

/**
 * Declares the texts of a page, in a file `texts.ts` beside it, so that they are loaded with the
 * page. Texts are ICU messages: `{count, plural, one {# row} other {# rows}}`. A name that one
 * language lacks is a type error; a test compares the arguments.
 */
export function defineTexts<const T extends Tree>(en: T, zh: NoInfer<SameNames<T>>): Texts<T> {
  return { en, zh };
}

export type { Translator };

export function translatorOf<T extends Tree>(texts: Texts<T>, language: 'en' | 'zh', timeZone: string): Translator<T> {
  const locale = language === 'zh' ? 'zh-CN' : 'en';
  return createTranslator({ locale, messages: texts[language] as T, timeZone }) as unknown as Translator<T>;
}
